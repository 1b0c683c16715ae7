# SPDX-License-Identifier: Apache-2.0
"""Transforms records for training: crop, antialiased resize, mirror, [-1, 1]."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from ldm_jax.data.records import MIRRORED, Record
from ldm_jax.data.transforms.degradations import check_degradation, degrade
from ldm_jax.data.transforms.geometry import Window, crop_boxes, mirror_field
from ldm_jax.data.transforms.masks import KINDS, draw_mask
from ldm_jax.data.transforms.pixels import (
    FILTERS,
    check_side,
    resize,
    to_unit_range,
)

CROPS = ("center", "random")
# The scale at which a pixel of the source is a pixel of the image.
NATIVE = "native"

Example = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class ImageTransform:
    """Makes a training image of a record: (record, rng) -> dict of arrays.

    A window of the requested aspect ratio is cut out, the largest unless the scales say
    otherwise, resized with Pillow's antialiased filter, mirrored with probability 1/2
    if asked, and scaled to [-1, 1]. The protocols of the paper, the order of resize and
    crop swapped, which is the same window:

        crop      min_scale  max_scale
        "center"  1          1          LSUN; ImageNet's validation
        "random"  1          1          ImageNet's training
        "random"  0.5        1          its super-resolution
        "random"  2/3        2/3        first stages and label maps: 384 to 256
        "random"  "native"   "native"   VQ-f4: cut at the size of the source
        "random"  "native"   1          layouts

    Attributes:
      image_size: side of the image, or (height, width).
      crop: "center" or "random".
      min_scale, max_scale: the window's size is drawn from U(min_scale, max_scale) of
        the largest; equal scales fix it. "native" is a window of as many pixels as the
        image has, or the largest of a source that is smaller.
      interpolation: one of FILTERS.
      flip: mirror every second image?
      max_boxes: length of "boxes", of a record that has them.
      low_res: a row of DEGRADATIONS gives "low_res", the image at a fraction of its
        size; None does not.
      low_res_factor: that fraction's denominator.
      mask: a kind of `masks.KINDS` gives "mask", a random hole; None does not.

    Source: Rombach et al. 2022; ldm/data/lsun.py and ldm/data/imagenet.py.
    """

    image_size: int | tuple[int, int]
    crop: str = "center"
    min_scale: float | str = 1.0
    interpolation: str = "bicubic"
    flip: bool = False
    max_boxes: int = 30
    low_res: str | None = None
    low_res_factor: int = 4
    mask: str | None = None
    max_scale: float | str = 1.0

    def __post_init__(self):
        check_side("image_size", self.image_size)
        if self.crop not in CROPS:
            raise ValueError(f'unknown crop "{self.crop}"; one of: {", ".join(CROPS)}.')
        if self.interpolation not in FILTERS:
            raise ValueError(
                f'unknown interpolation "{self.interpolation}"; one of: '
                f"{', '.join(FILTERS)}."
            )
        _check_scales(self.min_scale, self.max_scale, self.crop)
        if self.low_res is not None:
            check_degradation(self.low_res)
        if self.low_res and any(side % self.low_res_factor for side in self.size):
            raise ValueError(
                f"image_size must be divisible by low_res_factor: got "
                f"{self.image_size} and {self.low_res_factor}; change one of them."
            )
        if self.mask is not None and self.mask not in KINDS:
            raise ValueError(f'unknown mask "{self.mask}"; one of: {", ".join(KINDS)}.')

    @property
    def size(self) -> tuple[int, int]:
        """The size of the result, (height, width)."""
        if isinstance(self.image_size, int):
            return (self.image_size, self.image_size)
        height, width = self.image_size
        return (height, width)

    @property
    def description(self) -> dict[str, Any]:
        """The transform as JSON, stored in the metadata of a set of latents."""
        return {
            "kind": "image",
            **dataclasses.asdict(self),
            "image_size": list(self.size),
        }

    def __call__(self, record: Record, rng: np.random.Generator) -> Example:
        """Transforms one record.

        Args:
          record: "image" uint8 [H0, W0, 3] and any other fields.
          rng: the record's own; drawn from only as the options say.

        Returns:
          "image" float32 [H, W, 3] in [-1, 1]. As the record has them: "label" int32
          []; "caption", one of the record's, a str; "boxes" float32 [max_boxes, 4],
          "box_labels" and, where boxes have attributes, "box_attributes", int32
          [max_boxes] (see `crop_boxes`); "label_map" uint8 [H, W]; "embeddings".
          As requested: "low_res" float32 [H / factor, W / factor, 3] in [-1, 1];
          "mask" float32 [H, W, 1], 1 in the hole.
        """
        window = self._window(record["image"].shape, rng)
        image = resize(window.cut(record["image"]), self.size, self.interpolation)
        flip = self.flip and rng.random() < 0.5
        example: Example = {}
        if "label" in record:
            example["label"] = np.asarray(record["label"], np.int32)
        if "captions" in record:
            example["caption"] = str(rng.choice(record["captions"]))
        if "boxes" in record:
            example.update(_cropped_boxes(record, window, self.max_boxes))
        if "label_map" in record:
            part = window.cut(record["label_map"])
            example["label_map"] = resize(part, self.size, "nearest")
        if "embeddings" in record:
            example["embeddings"] = record["embeddings"]
        example["image"] = to_unit_range(image)
        if self.low_res:
            small = degrade(image, self.low_res, self.low_res_factor, rng)
            example["low_res"] = to_unit_range(small)
        if flip:
            example = mirrored(example)
        if self.mask:
            example["mask"] = draw_mask(self.mask, self.size, rng)
        return example

    def _window(self, shape, rng) -> Window:
        """Chooses the part of the source that becomes the image."""
        ratio = min(shape[0] / self.size[0], shape[1] / self.size[1])
        native = min(1.0, 1 / ratio)
        low, high = (
            native if scale == NATIVE else float(scale)
            for scale in (self.min_scale, self.max_scale)
        )
        # Where "native" is above a number there is nothing to draw from.
        ratio *= high if low >= high else rng.uniform(low, high)
        height = min(shape[0], max(1, round(self.size[0] * ratio)))
        width = min(shape[1], max(1, round(self.size[1] * ratio)))
        free = (shape[0] - height, shape[1] - width)
        if self.crop == "random":
            top, left = (int(rng.integers(0, room + 1)) for room in free)
        else:
            top, left = (room // 2 for room in free)
        return Window(top, left, height, width)


def _cropped_boxes(record: Record, window: Window, max_boxes: int) -> Example:
    """Moves the boxes of a record into a window, with their labels and attributes."""
    numbers = [name for name in ("box_labels", "box_attributes") if name in record]
    labels = np.stack([record[name] for name in numbers], axis=1)
    shape = record["image"].shape[:2]
    boxes, labels = crop_boxes(record["boxes"], labels, shape, window, max_boxes)
    return {"boxes": boxes, **dict(zip(numbers, labels.T, strict=True))}


def _check_scales(low: float | str, high: float | str, crop: str) -> None:
    """Raises ValueError unless windows can be drawn between two scales."""
    for name, scale in (("min_scale", low), ("max_scale", high)):
        is_share = not isinstance(scale, str) and 0 < scale <= 1
        if scale != NATIVE and not is_share:
            raise ValueError(f'{name} must be in (0, 1] or "native": got {scale!r}.')
    if NATIVE not in (low, high) and float(low) > float(high):
        raise ValueError(
            f"min_scale must not be above max_scale: got {low} and {high}; swap them."
        )
    if low != high and crop != "random":
        raise ValueError(
            f'min_scale and max_scale may differ only with crop="random": got {low} '
            f'and {high} with crop="{crop}"; make them equal, or crop at random.'
        )


@dataclasses.dataclass(frozen=True)
class Then:
    """A transform followed by a function of the example: captions or boxes to tokens.

    Attributes:
      transform: (record, rng) -> example.
      function: example -> example.
      name: says what the function does; becomes part of the description.
    """

    transform: Any
    function: Callable[[Example], Example]
    name: str

    @property
    def description(self) -> dict[str, Any]:
        """The transform as JSON."""
        return {**self.transform.description, "then": self.name}

    def __call__(self, record: Record, rng: np.random.Generator) -> Example:
        """Transforms one record."""
        return self.function(self.transform(record, rng))


def mirrored(example: Example) -> Example:
    """Returns the example of the mirror image, every field of it that differs."""
    return {
        name: mirror_field(name, value) if name in MIRRORED else value
        for name, value in example.items()
    }
