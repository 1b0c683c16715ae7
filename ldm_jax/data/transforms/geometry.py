# SPDX-License-Identifier: Apache-2.0
"""Crops and mirrors images together with their boxes and label maps."""

from typing import NamedTuple

import numpy as np

# Label of a place in a padded list of boxes that holds none.
NO_BOX = -1
# A box stays in a window that holds this share of it, or that it fills to this share.
OF_BOX, OF_WINDOW = 1e-4, 0.15


class Window(NamedTuple):
    """A part of an image, in pixels of the image."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, image: np.ndarray) -> np.ndarray:
        """Returns the part of an image [H0, W0, ...]."""
        rows = slice(self.top, self.top + self.height)
        return image[rows, self.left : self.left + self.width]


def crop_boxes(
    boxes: np.ndarray,
    labels: np.ndarray,
    shape: tuple[int, int],
    window: Window,
    max_boxes: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Moves boxes into a window of their image; clips, drops and pads.

    Args:
      boxes: [N, 4] x, y, width, height as fractions of the image.
      labels: int32 [N], or [N, k]: k numbers for each box.
      shape: (H0, W0) of the image.
      window: part of the image that is kept.
      max_boxes: length of the result; of more boxes the largest stay.

    Returns:
      boxes float32 [max_boxes, 4] as fractions of the window, and labels int32
      [max_boxes] or [max_boxes, k]; the places that are left over have label NO_BOX and
      zeros. The order is that of the input.

    Source: the released code of Rombach et al. 2022 keeps a box by OF_BOX or OF_WINDOW.
    """
    scale = np.array([shape[1], shape[0]], np.float64) / (window.width, window.height)
    offset = np.array([window.left, window.top], np.float64) / (
        window.width,
        window.height,
    )
    low = boxes[:, :2] * scale - offset
    high = (boxes[:, :2] + boxes[:, 2:]) * scale - offset
    whole = (high - low).prod(axis=1)
    low, high = low.clip(0, 1), high.clip(0, 1)
    size = high - low
    area = size.prod(axis=1)
    stays = (area > 0) & ((area >= OF_BOX * whole) | (area >= OF_WINDOW))
    order = np.argsort(-area, kind="stable")
    kept = np.sort(order[stays[order]][:max_boxes])
    cropped = np.zeros((max_boxes, 4), np.float32)
    names = np.full((max_boxes, *labels.shape[1:]), NO_BOX, np.int32)
    cropped[: len(kept)] = np.concatenate([low, size], axis=1)[kept]
    names[: len(kept)] = labels[kept]
    return cropped, names


def mirror_field(name: str, value: np.ndarray) -> np.ndarray:
    """Mirrors a field of an example left to right.

    Args:
      name: "boxes", or a field laid out [H, W] or [H, W, channels].
      value: the field; padding of boxes has width 0 and stays.

    Returns:
      A copy of the same shape.
    """
    if name == "boxes":
        mirrored = value.copy()
        real = value[:, 2] > 0
        mirrored[real, 0] = 1 - value[real, 0] - value[real, 2]
        return mirrored
    return np.ascontiguousarray(value[:, ::-1])
