# SPDX-License-Identifier: Apache-2.0
"""Low-resolution images for super-resolution: OpenCV's and Pillow's ways of reducing.

OpenCV's bilinear, bicubic and Lanczos do not antialias when they reduce: they read the
few pixels around each centre. Pillow's widen with the reduction. The two bicubics
differ by up to 127 of 255 levels, so a model must be asked for what it was trained on.

Source: Rombach et al. 2022, ldm/data/imagenet.py; OpenCV, imgproc/src/resize.cpp.
"""

from collections.abc import Callable

import numpy as np

from ldm_jax.data.pixels import FILTERS, resize


def degrade(image: np.ndarray, kind: str, factor: int) -> np.ndarray:
    """Reduces an image.

    Args:
      image: uint8 [H, W, 3]; H and W multiples of `factor`.
      kind: a row of DEGRADATIONS.
      factor: whole, >= 1.

    Returns:
      uint8 [H / factor, W / factor, 3].
    """
    return DEGRADATIONS[kind](image, factor)


def _pillow(name: str) -> Callable:
    def reduce(image: np.ndarray, factor: int) -> np.ndarray:
        height, width = image.shape[:2]
        return resize(image, (height // factor, width // factor), name)

    return reduce


def _nearest(image: np.ndarray, factor: int) -> np.ndarray:
    return image[::factor, ::factor]


def _area(image: np.ndarray, factor: int) -> np.ndarray:
    height, width, channels = image.shape
    blocks = image.reshape(
        height // factor, factor, width // factor, factor, channels
    ).astype(np.float64)
    return _to_levels(blocks.mean((1, 3)))


def _taps(weigh: Callable[[np.ndarray], np.ndarray], radius: int) -> Callable:
    """Makes a reduction that reads 2 * radius pixels per axis around each centre."""

    def reduce_rows(image: np.ndarray, factor: int) -> np.ndarray:
        length = image.shape[0]
        centre = (np.arange(length // factor) + 0.5) * factor - 0.5
        first = np.floor(centre).astype(int)
        offsets = np.arange(1 - radius, radius + 1)
        weights = weigh(centre[:, None] - (first[:, None] + offsets[None, :]))
        weights = weights / weights.sum(1, keepdims=True)
        places = (first[:, None] + offsets[None, :]).clip(0, length - 1)
        return np.einsum("ot,ot...->o...", weights, image[places])

    def reduce(image: np.ndarray, factor: int) -> np.ndarray:
        rows = reduce_rows(image.astype(np.float64), factor)
        return _to_levels(reduce_rows(rows.swapaxes(0, 1), factor).swapaxes(0, 1))

    return reduce


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - abs(x), 0)


def _cubic(x: np.ndarray) -> np.ndarray:
    a, x = -0.75, abs(x)  # OpenCV's coefficient; Pillow's is -0.5
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def _lanczos4(x: np.ndarray) -> np.ndarray:
    return np.where(abs(x) < 4, np.sinc(x) * np.sinc(x / 4), 0)


def _to_levels(values: np.ndarray) -> np.ndarray:
    return np.rint(values).clip(0, 255).astype(np.uint8)


DEGRADATIONS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "cv_nearest": _nearest,
    "cv_bilinear": _taps(_triangle, 1),
    "cv_bicubic": _taps(_cubic, 2),
    "cv_area": _area,
    "cv_lanczos": _taps(_lanczos4, 4),
    **{f"pil_{name}": _pillow(name) for name in FILTERS},
}
