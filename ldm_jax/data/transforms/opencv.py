# SPDX-License-Identifier: Apache-2.0
"""Implements OpenCV's resizing as one matrix per axis, without needing OpenCV.

OpenCV's bilinear, bicubic and Lanczos do not antialias when they reduce an image: they
read the few pixels around each centre. "area" averages the pixels that an output pixel
covers. OpenCV computes uint8 in fixed point; results differ by one level at most.

Source: OpenCV, imgproc/src/resize.cpp.
"""

import functools

import numpy as np


def resize_as_opencv(
    image: np.ndarray, size: tuple[int, int], interpolation: str
) -> np.ndarray:
    """Resizes as cv2.resize does.

    Args:
      image: [H0, W0, channels], any real dtype.
      size: (height, width) of the result.
      interpolation: "nearest", "bilinear", "bicubic", "area", "lanczos"; or "halving",
        MATLAB's antialiased bicubic.

    Returns:
      float64 [height, width, channels], not clipped.
    """
    rows = axis_matrix(interpolation, image.shape[0], size[0])
    columns = axis_matrix(interpolation, image.shape[1], size[1])
    return np.einsum("ph,hwc,qw->pqc", rows, image, columns, optimize=True)


@functools.lru_cache(maxsize=256)
def axis_matrix(interpolation: str, length: int, size: int) -> np.ndarray:
    """Makes the matrix [size, length] that resizes one axis; its rows sum to 1."""
    scale = length / size
    if interpolation == "area" and size <= length:
        edges = np.arange(size)[:, None] * scale
        pixel = np.arange(length)[None, :]
        matrix = np.minimum(edges + scale, pixel + 1) - np.maximum(edges, pixel)
        return matrix.clip(0) / scale
    if interpolation == "nearest":
        places = np.floor(np.arange(size) * scale).astype(int)
        return np.eye(length)[places.clip(0, length - 1)]
    # OpenCV enlarges "area" by a kind of bilinear.
    kernel, radius, stretch = {
        "area": (_triangle, 1, 1.0),
        "bilinear": (_triangle, 1, 1.0),
        "bicubic": (functools.partial(_cubic, a=-0.75), 2, 1.0),
        "lanczos": (_lanczos4, 4, 1.0),
        "halving": (functools.partial(_cubic, a=-0.5), 2, max(scale, 1.0)),
    }[interpolation]
    centre = (np.arange(size) + 0.5) * scale - 0.5
    reach = int(np.ceil(radius * stretch))
    taps = np.floor(centre)[:, None] + np.arange(1 - reach, reach + 1)[None, :]
    weights = kernel((centre[:, None] - taps) / stretch)
    weights /= weights.sum(1, keepdims=True)
    if interpolation == "halving":  # MATLAB continues an image by its mirror image
        taps = np.where(taps < 0, -1 - taps, taps)
        taps = np.where(taps >= length, 2 * length - 1 - taps, taps)
    matrix = np.zeros((size, length))
    places = taps.astype(int).clip(0, length - 1)
    np.add.at(matrix, (np.arange(size)[:, None], places), weights)
    return matrix


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - abs(x), 0)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    x = abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def _lanczos4(x: np.ndarray) -> np.ndarray:
    return np.where(abs(x) < 4, np.sinc(x) * np.sinc(x / 4), 0)
