# SPDX-License-Identifier: Apache-2.0
"""Records to what the network sees: crop, antialiased resize, mirror, [-1, 1]."""

import dataclasses
from typing import Any

import numpy as np
from PIL import Image

from ldm_jax.data.records import Record

# Pillow's filters; all but "nearest" widen with the reduction, which antialiases.
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
CROPS = ("center", "random")


@dataclasses.dataclass(frozen=True)
class ImageTransform:
    """Makes a training image of a record: (record, rng) -> dict of arrays.

    The largest window of the wanted aspect ratio is cut out, resized with Pillow's
    antialiased filter, mirrored with probability 1/2 if asked, and scaled to [-1, 1].
    "center" then resize is the protocol of LSUN and of ImageNet's validation; "random"
    that of ImageNet's training (the order of resize and crop swapped, which is the same
    window), and with `min_scale` 0.5 that of its super-resolution.

    Attributes:
      image_size: side of the image, or (height, width).
      crop: "center" or "random".
      min_scale: the window's size is drawn from U(min_scale, 1) of the largest;
        "random" only.
      interpolation: one of FILTERS.
      flip: mirror every second image?

    Source: Rombach et al. 2022; ldm/data/lsun.py and ldm/data/imagenet.py.
    """

    image_size: int | tuple[int, int]
    crop: str = "center"
    min_scale: float = 1.0
    interpolation: str = "bicubic"
    flip: bool = False

    def __post_init__(self):
        if self.crop not in CROPS:
            raise ValueError(f'unknown crop "{self.crop}"; one of: {", ".join(CROPS)}.')
        if self.interpolation not in FILTERS:
            raise ValueError(
                f'unknown interpolation "{self.interpolation}"; one of: '
                f"{', '.join(FILTERS)}."
            )
        if not 0 < self.min_scale <= 1:
            raise ValueError(f"min_scale must be in (0, 1]: got {self.min_scale}.")
        if self.min_scale < 1 and self.crop != "random":
            raise ValueError(
                f'min_scale {self.min_scale} needs crop="random": a centered window is '
                f"always the largest."
            )
        if min(self.size) < 1:
            raise ValueError(f"image_size must be positive: got {self.image_size}.")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the result."""
        if isinstance(self.image_size, int):
            return (self.image_size, self.image_size)
        height, width = self.image_size
        return (height, width)

    @property
    def description(self) -> dict[str, Any]:
        """What is done, as JSON: goes into the facts of a set of latents."""
        return {
            "kind": "image",
            **dataclasses.asdict(self),
            "image_size": list(self.size),
        }

    def __call__(
        self, record: Record, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Transforms one record.

        Args:
          record: "image" uint8 [H0, W0, 3] and any other fields.
          rng: the record's own; drawn from only by "random" and `flip`.

        Returns:
          "image" float32 [H, W, 3] in [-1, 1]; "label" int32 [] if the record has one.
        """
        image = record["image"]
        top, left, height, width = self._window(image.shape, rng)
        image = resize(
            image[top : top + height, left : left + width],
            self.size,
            self.interpolation,
        )
        if self.flip and rng.random() < 0.5:
            image = image[:, ::-1]
        example = {"image": to_unit_range(image)}
        if "label" in record:
            example["label"] = np.asarray(record["label"], np.int32)
        return example

    def _window(self, shape, rng) -> tuple[int, int, int, int]:
        """Chooses (top, left, height, width) of the crop, in pixels of the source."""
        ratio = min(shape[0] / self.size[0], shape[1] / self.size[1])
        if self.crop == "random" and self.min_scale < 1:
            ratio *= rng.uniform(self.min_scale, 1)
        height = min(shape[0], max(1, round(self.size[0] * ratio)))
        width = min(shape[1], max(1, round(self.size[1] * ratio)))
        free = (shape[0] - height, shape[1] - width)
        if self.crop == "random":
            top, left = (int(rng.integers(0, room + 1)) for room in free)
        else:
            top, left = (room // 2 for room in free)
        return top, left, height, width


def resize(
    image: np.ndarray, size: tuple[int, int], interpolation: str = "bicubic"
) -> np.ndarray:
    """Resizes with antialiasing: Pillow's own result, bit for bit.

    Args:
      image: uint8 [H0, W0, 3] or [H0, W0]; or float32 [H0, W0].
      size: (height, width) wanted.
      interpolation: one of FILTERS.

    Returns:
      [height, width, 3] or [height, width], of the dtype of `image`.
    """
    if image.shape[:2] == size:
        return image
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize(size[::-1], FILTERS[interpolation]))


def to_unit_range(image_u8: np.ndarray) -> np.ndarray:
    """Scales uint8 in [0, 255] to float32 in [-1, 1]: x / 127.5 - 1."""
    return image_u8.astype(np.float32) / np.float32(127.5) - np.float32(1)


def mirror_image(image: np.ndarray) -> np.ndarray:
    """Mirrors images [..., H, W, channels] left to right; makes a copy."""
    return np.ascontiguousarray(image[..., ::-1, :])
