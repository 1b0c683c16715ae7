# SPDX-License-Identifier: Apache-2.0
"""Resizes images with antialiasing, converts their range, mirrors them."""

from typing import Any

import numpy as np
from PIL import Image

# The longest side of an image, in pixels.
MAX_SIDE = 2**16

# Pillow's filters; all but "nearest" widen with the reduction, which antialiases.
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def resize(
    image: np.ndarray, size: tuple[int, int], interpolation: str = "bicubic"
) -> np.ndarray:
    """Resizes with antialiasing: Pillow's own result, bit for bit.

    Args:
      image: uint8 [H0, W0, 3] or [H0, W0]; or float32 [H0, W0].
      size: (height, width) of the result.
      interpolation: one of FILTERS.

    Returns:
      [height, width, 3] or [height, width], of the dtype of `image`.
    """
    if image.shape[:2] == size:
        return image
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize((size[1], size[0]), FILTERS[interpolation]))


def to_unit_range(image_u8: np.ndarray) -> np.ndarray:
    """Scales uint8 in [0, 255] to float32 in [-1, 1]: x / 127.5 - 1."""
    return image_u8.astype(np.float32) / np.float32(127.5) - np.float32(1)


def from_unit_range(image: np.ndarray) -> np.ndarray:
    """Inverts `to_unit_range` exactly: float32 in [-1, 1] to uint8."""
    return to_levels((image + 1) * 127.5)


def mirror_image(image: np.ndarray) -> np.ndarray:
    """Mirrors images [..., H, W, channels] left to right; makes a copy."""
    return np.ascontiguousarray(image[..., ::-1, :])


def to_levels(values: np.ndarray) -> np.ndarray:
    """Rounds real numbers to uint8 levels, clipped to [0, 255]."""
    return np.rint(values).clip(0, 255).astype(np.uint8)


def check_side(name: str, size: Any) -> None:
    """Checks the size of images: a side, or (height, width).

    Raises:
      ValueError: a side is not a whole number from 1 to MAX_SIDE; `name` is the field.
    """
    sides = size if isinstance(size, tuple | list) else (size,)
    fit = (type(side) is int and 1 <= side <= MAX_SIDE for side in sides)
    if len(sides) not in (1, 2) or not all(fit):
        raise ValueError(
            f"{name} must be a positive number of whole pixels up to {MAX_SIDE}, or "
            f"(height, width): got {size!r:.80}."
        )
