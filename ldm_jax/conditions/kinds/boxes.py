# SPDX-License-Identifier: Apache-2.0
"""Boxes and their tokens, in both directions."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Int32

# Of a box, as Open Images annotates them: bits of its class token, lowest first.
ATTRIBUTES = ("is_group", "is_occluded", "is_depiction", "is_inside")


@dataclasses.dataclass(frozen=True)
class Box:
    """An object of a layout.

    Attributes:
      label: class in [0, num_classes).
      x, y, width, height: as shares of the image, from its top left corner.
      is_group, is_occluded, is_depiction, is_inside: attributes of Open Images.
    """

    label: int
    x: float
    y: float
    width: float
    height: float
    is_group: bool = False
    is_occluded: bool = False
    is_depiction: bool = False
    is_inside: bool = False


def attributes_of(bits: int) -> dict[str, bool]:
    """Returns the attributes of a box by name, from their bits."""
    return {name: bool(bits & 1 << i) for i, name in enumerate(ATTRIBUTES)}


@dataclasses.dataclass(frozen=True)
class BoxTokens:
    """Turns boxes into tokens (class, top left, bottom right), then the crop, and back.

        token of a point = round(y * (n - 1)) * n + round(x * (n - 1)),
        n = floor(sqrt(vocab_size))

    Attributes:
      num_classes: classes of boxes.
      vocab_size: ids are in [0, vocab_size); the last one means "no object".
      max_objects: the most boxes; length M is 3 * max_objects + 2.
      has_attributes: whether the class token holds the four attributes, which the image
        set openimages_layout has: token = class + num_classes * bits.

    Source: conditional_builder of the released code of Esser et al. 2021.
    """

    num_classes: int
    vocab_size: int = 8192
    max_objects: int = 30
    has_attributes: bool = False

    def __post_init__(self):
        needed = self.num_classes * (16 if self.has_attributes else 1)
        if needed >= self.vocab_size:
            raise ValueError(
                f"a layout's classes (with attributes) must fit below the last id: got "
                f"{needed} for vocab_size={self.vocab_size}; raise vocab_size."
            )

    @property
    def length(self) -> int:
        """The number of tokens per layout, M."""
        return 3 * self.max_objects + 2

    @property
    def side(self) -> int:
        """The number of points per side of the grid, n: 90 for 8192 ids."""
        return int(self.vocab_size**0.5)

    def point_token(self, x: float, y: float) -> int:
        """Returns the token of the point next to x, y in [0, 1]; halves go to even."""
        last = self.side - 1
        return round(y * last) * self.side + round(x * last)

    def token_point(self, token: int) -> tuple[float, float]:
        """Returns x, y of a token, the inverse of `point_token` to half a cell."""
        y, x = divmod(token, self.side)
        return x / (self.side - 1), y / (self.side - 1)

    def encode(
        self,
        boxes: Sequence[Box],
        crop: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
    ) -> Int32[np.ndarray, " M"]:
        """Encodes boxes as tokens.

        Args:
          boxes: in the order of their tokens; those past `max_objects` are dropped.
          crop: x, y, width, height of the part of the image that is shown.

        Returns:
          [length] int32.

        Raises:
          ValueError: a class is unknown, or a box leaves the image.
        """
        tokens = []
        for box in boxes[: self.max_objects]:
            self.check(box)
            tokens += [self.class_token(box), *self.corners(box)]
        empty = 3 * self.max_objects - len(tokens)
        tokens += [self.vocab_size - 1] * empty + list(self.corners(Box(0, *crop)))
        return np.asarray(tokens, np.int32)

    def decode(
        self, tokens: Sequence[int] | Int[np.ndarray, " M"]
    ) -> tuple[list[Box], tuple]:
        """Returns boxes and crop, the inverse of `encode`; corners to half a cell."""
        *triples, first, last = (int(token) for token in tokens)
        boxes = []
        for label, a, b in zip(triples[::3], triples[1::3], triples[2::3], strict=True):
            if label == self.vocab_size - 1:
                continue
            attributes, label = divmod(label, self.num_classes)
            bits = attributes_of(attributes)
            boxes.append(Box(label, *self.rectangle(a, b), **bits))
        return boxes, self.rectangle(first, last)

    def class_token(self, box: Box) -> int:
        """Returns the token of a box's class and, where used, its attributes."""
        if not self.has_attributes:
            return box.label
        bits = [getattr(box, name) for name in ATTRIBUTES]
        return box.label + self.num_classes * sum(b << i for i, b in enumerate(bits))

    def corners(self, box: Box) -> tuple[int, int]:
        """Returns the tokens of the top left and the bottom right corner."""
        return (
            self.point_token(box.x, box.y),
            self.point_token(box.x + box.width, box.y + box.height),
        )

    def rectangle(self, first: int, last: int) -> tuple[float, float, float, float]:
        """Returns x, y, width, height between two corners."""
        (x0, y0), (x1, y1) = self.token_point(first), self.token_point(last)
        return x0, y0, x1 - x0, y1 - y0

    def check(self, box: Box) -> None:
        """Raises ValueError unless a box has a known class and is inside the image."""
        if not 0 <= box.label < self.num_classes:
            raise ValueError(
                f"a box's class must be in [0, {self.num_classes}): got {box.label}."
            )
        # Boxes in pixels, rounded by the annotator, may end slightly outside.
        low, high = -1e-3, 1 + 1e-3
        ends = (box.x, box.y, box.x + box.width, box.y + box.height)
        is_inside = all(low <= end <= high for end in ends)  # and so none is NaN
        if not is_inside or min(box.width, box.height) < 0:
            raise ValueError(
                "a box must be inside the image, x, y, width, height as shares of it: "
                f"got {box.x, box.y, box.width, box.height} for class {box.label}; "
                "divide pixels by the image's size, and clip."
            )
