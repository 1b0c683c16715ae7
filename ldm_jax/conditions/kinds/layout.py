# SPDX-License-Identifier: Apache-2.0
"""Layouts: boxes of known classes, as tokens that a transformer encodes."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int32

from ldm_jax.conditions.fields import (
    MAX_CLASSES,
    MAX_DEPTH,
    MAX_IDS,
    MAX_OBJECTS,
    MAX_WIDTH,
    check_counts,
)
from ldm_jax.conditions.kinds.boxes import ATTRIBUTES, Box, BoxTokens, attributes_of
from ldm_jax.conditions.kinds.class_label import class_number
from ldm_jax.conditions.kinds.token_ids import TokenCondition, token_field
from ldm_jax.files.errors import shown
from ldm_jax.files.formats.structured import read_json
from ldm_jax.models.conditioners import TokenTransformer


@dataclasses.dataclass(frozen=True)
class Layout(TokenCondition):
    """Boxes as tokens [B, 3 * max_objects + 2], encoded to a context; null has no box.

    Attributes:
      num_classes, vocab_size, max_objects, has_attributes: see `BoxTokens`.
      width, depth: of the transformer; the defaults are the published ones.
      class_names: names that a user may give instead of numbers; where there are fewer
        than `num_classes`, the numbers after them are not classes.
      dtype: dtype of the transformer's arithmetic.
      random_order: whether training draws the order of an image's boxes each time, as
        the original does.
    """

    num_classes: int
    width: int = 512
    depth: int = 16
    vocab_size: int = 8192
    max_objects: int = 30
    has_attributes: bool = False
    class_names: tuple[str, ...] = ()
    dtype: jnp.dtype = jnp.float32
    random_order: bool = False

    kind: ClassVar = "layout"
    fields: ClassVar = {
        "tokens": token_field(
            "boxes", "JSON file of boxes", user_keyword="boxes", example="boxes.json"
        )
    }

    def __post_init__(self):
        check_counts(
            self,
            num_classes=MAX_CLASSES,
            width=MAX_WIDTH,
            depth=MAX_DEPTH,
            vocab_size=MAX_IDS,
            max_objects=MAX_OBJECTS,
        )
        assert self.box_tokens  # checks that the classes fit into the vocabulary

    @functools.cached_property
    def box_tokens(self) -> BoxTokens:
        """The encoder of boxes as tokens."""
        return BoxTokens(
            self.num_classes, self.vocab_size, self.max_objects, self.has_attributes
        )

    @property
    def record_fields(self) -> Mapping[str, str]:  # pyright: ignore
        """The fields of a record that tokens are made of."""
        way_out = "config.images.boxes names the boxes of a folder"
        names = {"box_labels": way_out, "boxes": way_out}
        if self.has_attributes:
            names["box_attributes"] = (
                "the image set openimages_layout has attributes; of others, set "
                "condition.has_attributes=False"
            )
        return names

    @property
    def shuffled(self) -> tuple[str, ...]:
        return tuple(self.record_fields) if self.random_order else ()

    @property
    def length(self) -> int:
        """The number of tokens per layout, M."""
        return self.box_tokens.length

    @property
    def num_ids(self) -> int:
        """The number of ids that the transformer knows."""
        return self.vocab_size

    @property
    def module(self) -> TokenTransformer:
        return TokenTransformer(
            self.vocab_size, self.width, self.depth, self.length, dtype=self.dtype
        )

    @property
    def null_tokens(self) -> Int32[np.ndarray, " M"]:
        return self.box_tokens.encode([])

    def prepare(self, record: dict[str, Any]) -> dict[str, Any]:
        """Adds "tokens" [M] int32, made of boxes [N, 4] and box_labels [N].

        A box with a negative label is padding.

        Raises:
          ValueError: the record has no boxes, or none of the attributes that the model
            reads.
        """
        record = super().prepare(record)
        labels = record["box_labels"]
        bits = record["box_attributes"] if self.has_attributes else [0] * len(labels)
        boxes = [
            _box(int(label), box, attributes_of(int(number)))
            for label, box, number in zip(labels, record["boxes"], bits, strict=True)
            if label >= 0
        ]
        return {**record, "tokens": self.box_tokens.encode(boxes)}

    def from_user(self, boxes: Any) -> dict[str, np.ndarray]:
        """Reads boxes: a JSON file, or the objects that it would hold.

        One layout is a list of {"label": number or name, "box": [x, y, width, height]},
        shares of the image from its top left corner; a file holds one layout or a list
        of them. Where the model reads attributes, a box may have them too, "is_group":
        true and the like.

        Returns:
          {"tokens": int32 [B, M]}.

        Raises:
          ValueError: not JSON, a class is unknown, a box leaves the image, or there are
            more boxes than the model takes.
        """
        where: Any = "the arguments"
        if isinstance(boxes, (str, pathlib.Path)):
            where = boxes
            boxes = read_json(
                boxes, kind=object, rule="cannot be read, a layout must be JSON"
            )
        if not isinstance(boxes, list):
            raise ValueError(
                f"a layout is a list of boxes: got {type(boxes).__name__} in {where}."
            )
        layouts = [boxes] if not boxes or isinstance(boxes[0], dict) else boxes
        rows = [self.box_tokens.encode(self._boxes(one, where)) for one in layouts]
        return {"tokens": np.stack(rows)}

    def _boxes(self, layout: Any, where: Any) -> list[Box]:
        """Reads the boxes of one layout."""
        if not isinstance(layout, list):
            raise ValueError(
                f"a layout is a list of boxes: got {shown(layout)} in {where}."
            )
        if len(layout) > self.max_objects:
            raise ValueError(
                f"a layout holds {self.max_objects} boxes at most: got {len(layout)} "
                f"in {where}; leave the smallest out."
            )
        return [self._box(entry, where) for entry in layout]

    def _box(self, entry: Any, where: Any) -> Box:
        is_box = isinstance(entry, dict) and {"label", "box"} <= set(entry)
        if not is_box or len(entry["box"]) != 4:
            raise ValueError(
                'a box is {"label": class, "box": [x, y, width, height]}: got '
                f"{shown(entry)} in {where}."
            )
        number = class_number(
            entry["label"],
            len(self.class_names) or self.num_classes,
            self.class_names,
        )
        attributes = {name: bool(entry[name]) for name in ATTRIBUTES if name in entry}
        if attributes and not self.has_attributes:
            raise ValueError(
                f"this model reads no attributes of a box: got {', '.join(attributes)} "
                f"in {where}; leave them out."
            )
        return _box(number, entry["box"], attributes)


def _box(label: int, corner_and_size, attributes: Mapping[str, bool]) -> Box:
    x, y, width, height = map(float, corner_and_size)
    return Box(label, x, y, width, height, **attributes)
