# SPDX-License-Identifier: Apache-2.0
"""Class labels: one learned token per class, or the UNet's own embedding."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from ldm_jax.conditions.base import Condition
from ldm_jax.conditions.fields import MAX_CLASSES, MAX_WIDTH, Field, check_counts
from ldm_jax.conditions.user_inputs import as_list
from ldm_jax.files.errors import nearest_name, shown
from ldm_jax.files.paths import printable
from ldm_jax.models.conditioners import ClassToken
from ldm_jax.types import Array, Batch, Conditioning

# Characters; names are drawn below samples.
MAX_NAME = 1000
_NUMBER = re.compile(r"-?[0-9]{1,9}")


@dataclasses.dataclass(frozen=True)
class ClassLabel(Condition):
    """A class label [B] int32 as one token; null is one more class, num_classes.

    Attributes:
      num_classes: classes; labels are in [0, num_classes).
      width: d of the token; None passes the label to the UNet, which adds its embedding
        to that of time (set UNet.num_classes to num_classes + has_null).
      has_null: whether one more class, num_classes, means "any class".
      class_names: names that a user may give instead of numbers.
    """

    num_classes: int
    width: int | None = 512
    has_null: bool = True
    class_names: tuple[str, ...] = ()

    kind: ClassVar = "class"
    fields: ClassVar = {
        "label": Field(
            keyword="class_label",
            flag="label",
            axes=("B",),
            dtype="int32",
            limit="num_ids",
            doc="classes by number or name, comma-separated",
            example="0",
        )
    }
    record_fields: ClassVar = {
        "label": "put the images of each class into a sub-folder of its name, or take "
        "a set with labels"
    }

    def __post_init__(self):
        check_counts(self, num_classes=MAX_CLASSES, width=MAX_WIDTH)
        if isinstance(self.class_names, str) or not all(
            isinstance(name, str) and len(name) <= MAX_NAME for name in self.class_names
        ):
            raise ValueError(
                f"class_names must be texts of at most {MAX_NAME} characters: got "
                f"{shown(self.class_names)}."
            )
        if len(self.class_names) > self.num_classes:
            raise ValueError(
                f"class_names must be of at most num_classes={self.num_classes} "
                f"classes: got {len(self.class_names):,} names; a name without a class "
                "would be the null class."
            )

    @property
    def num_ids(self) -> int:
        """The number of rows of the table of classes."""
        return self.num_classes + self.has_null

    @property
    def module(self) -> ClassToken | None:
        return None if self.width is None else ClassToken(self.num_ids, self.width)

    def encode_fields(
        self, apply: Callable[[Array], Array], batch: Batch, frozen: Mapping[str, Any]
    ) -> Conditioning:
        if self.width is None:
            return Conditioning(class_label=batch["label"])
        return Conditioning(context=apply(batch["label"]))

    def null_fields(self, batch: Batch) -> Batch:
        return {"label": jnp.full_like(batch["label"], self.num_classes)}

    def prepare(self, record: dict[str, Any]) -> dict[str, Any]:
        """Checks the label, because a lookup on a device would clamp it silently.

        Raises:
          ValueError: the label is outside [0, num_classes).
        """
        record = super().prepare(record)
        if not 0 <= record["label"] < self.num_classes:
            raise ValueError(
                f"labels of the data must be in [0, {self.num_classes}), which is "
                f"condition.num_classes: got {int(record['label'])}; set it to the "
                "number of classes that the data have."
            )
        return record

    def from_user(self, class_label: Any) -> dict[str, np.ndarray]:
        """Reads numbers, names, or a comma-separated list of either: "label" [B]."""
        if isinstance(class_label, str) and class_label not in self.class_names:
            class_label = [word.strip() for word in class_label.split(",")]
        numbers = [
            class_number(word, self.num_classes, self.class_names)
            for word in as_list(class_label)
        ]
        return {"label": np.asarray(numbers, np.int32)}


def class_number(word: Any, num_classes: int, class_names: Sequence[str]) -> int:
    """Returns the number of a class given by number or name.

    Raises:
      ValueError: there is no such class; lists the names. If names are numbers, a text
        is a name: "1" must not be two classes.
    """
    if word in class_names:
        return class_names.index(word)
    word = word[:100] if isinstance(word, str) else word
    is_text = isinstance(word, str) and not any(map(_NUMBER.fullmatch, class_names))
    if isinstance(word, (int, np.integer)) or (is_text and _NUMBER.fullmatch(word)):
        number = int(word)
        if 0 <= number < num_classes:
            return number
    listed = printable(", ".join(class_names))
    names = f", or one of the names {listed}" if class_names else ""
    hint = nearest_name(str(word), class_names)
    raise ValueError(f"a class is in 0..{num_classes - 1}{names}: got {word!r}{hint}")
