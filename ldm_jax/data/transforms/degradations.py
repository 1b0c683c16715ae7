# SPDX-License-Identifier: Apache-2.0
"""Low-resolution images for super-resolution: by OpenCV, by Pillow, by BSRGAN.

OpenCV's bicubic does not antialias and Pillow's does; they differ by up to 127 of 255
levels, so a model needs the degradation that it was trained on. The paper's protocol
is "pil_bicubic"; its real-world model was trained on "bsrgan_light".

Source: Rombach et al. 2022, App. D.6; ldm/data/imagenet.py.
"""

import functools
from collections.abc import Callable

import numpy as np

from ldm_jax.data.transforms.bsrgan import FULL, LIGHT, degrade_blindly
from ldm_jax.data.transforms.opencv import INTERPOLATIONS, load_opencv, resize_as_opencv
from ldm_jax.data.transforms.pixels import FILTERS, resize

Degradation = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]


def degrade(
    image: np.ndarray, kind: str, factor: int, rng: np.random.Generator
) -> np.ndarray:
    """Reduces an image.

    Args:
      image: uint8 [H, W, 3]; H and W multiples of `factor`.
      kind: a row of DEGRADATIONS.
      factor: whole, >= 1.
      rng: the record's own; only the bsrgan kinds draw from it.

    Returns:
      uint8 [H / factor, W / factor, 3].
    """
    return DEGRADATIONS[kind](image, factor, rng)


def check_degradation(kind: str) -> None:
    """Checks that a degradation is known and that what it needs is installed.

    Raises:
      ValueError: it is not.
    """
    if kind not in DEGRADATIONS:
        known = ", ".join(DEGRADATIONS)
        raise ValueError(f'unknown degradation "{kind}"; one of: {known}.')
    if not kind.startswith("pil_"):
        load_opencv()


def _smaller(image: np.ndarray, factor: int) -> tuple[int, int]:
    return image.shape[0] // factor, image.shape[1] // factor


def _pillow(name: str, image, factor: int, rng) -> np.ndarray:
    del rng
    return resize(image, _smaller(image, factor), name)


def _opencv(name: str, image, factor: int, rng) -> np.ndarray:
    del rng
    return resize_as_opencv(image, _smaller(image, factor), name)


DEGRADATIONS: dict[str, Degradation] = {
    **{f"cv_{name}": functools.partial(_opencv, name) for name in INTERPOLATIONS},
    **{f"pil_{name}": functools.partial(_pillow, name) for name in FILTERS},
    "bsrgan": functools.partial(degrade_blindly, FULL),
    "bsrgan_light": functools.partial(degrade_blindly, LIGHT),
}
