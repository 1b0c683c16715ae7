# SPDX-License-Identifier: Apache-2.0
"""Resizes images by OpenCV (extra `opencv`), which few experiments need.

OpenCV's bilinear, bicubic and Lanczos do not antialias when they reduce an image: they
read the few pixels around each centre. "area" averages the pixels that an output pixel
covers.
"""

import functools

import numpy as np

# Name -> its name in cv2.
INTERPOLATIONS = dict(
    nearest="INTER_NEAREST",
    bilinear="INTER_LINEAR",
    bicubic="INTER_CUBIC",
    area="INTER_AREA",
    lanczos="INTER_LANCZOS4",
)


def resize_as_opencv(
    image: np.ndarray, size: tuple[int, int], interpolation: str
) -> np.ndarray:
    """Resizes by cv2.resize.

    Args:
      image: [H0, W0, 3], uint8 or a float.
      size: (height, width) of the result.
      interpolation: a key of INTERPOLATIONS.

    Returns:
      [height, width, 3] of the same dtype; floats are not clipped.

    Raises:
      ValueError: OpenCV is not installed.
    """
    cv2 = load_opencv()
    how = getattr(cv2, INTERPOLATIONS[interpolation])
    return cv2.resize(image, size[::-1], interpolation=how)


@functools.cache
def load_opencv():
    """Imports cv2, on one thread: images are loaded by several already.

    Raises:
      ValueError: it is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise ValueError(
            "this reduction of images needs OpenCV: pip install 'ldm_jax[opencv]', or "
            'take one of Pillow\'s, as transform.low_res="pil_bicubic".'
        ) from error
    cv2.setNumThreads(1)
    return cv2
