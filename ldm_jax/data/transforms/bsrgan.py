# SPDX-License-Identifier: Apache-2.0
"""BSRGAN's random degradation: blurs, reductions, noise and JPEG in random order.

Source: Zhang et al. 2021, Designing a Practical Degradation Model; the numbers are
those of ldm/modules/image_degradation/bsrgan.py and bsrgan_light.py, whose camera model
is never used.
"""

import dataclasses
import functools
import io

import numpy as np
from PIL import Image

from ldm_jax.data.transforms.opencv import resize_as_opencv
from ldm_jax.data.transforms.pixels import to_levels


@dataclasses.dataclass(frozen=True)
class Strength:
    """How much an image is degraded.

    Attributes:
      num_blurs: how often it is blurred.
      blur_divisor: of the kernels' widths.
      odd_kernels: kernel sizes are 2 n + 3 rather than n + 3.
      round_size: greatest n of round kernels; of oval ones it is 11.
      resize_share: of the first reductions that are a resize; the others blur and pick.
      noise: (least, most) standard deviation, levels of 255.
      jpeg: (least, most) quality.
    """

    num_blurs: int
    blur_divisor: float
    odd_kernels: bool
    round_size: int
    resize_share: float
    noise: tuple[int, int]
    jpeg: tuple[int, int]


FULL = Strength(2, 1, True, 11, 0.75, (2, 25), (30, 95))
LIGHT = Strength(1, 4, False, 4, 0.8, (1, 2), (80, 95))

HALVED_SHARE = 0.25  # of images that are halved before anything else (factor 4 only)
JPEG_SHARE = 0.9  # of images that are compressed once more on the way
RESIZES = ("bilinear", "bicubic", "area")


def degrade_blindly(
    strength: Strength, image: np.ndarray, factor: int, rng: np.random.Generator
) -> np.ndarray:
    """Reduces an image by a random chain of degradations.

    Args:
      strength: FULL or LIGHT.
      image: uint8 [H, W, 3].
      factor: whole, >= 1.
      rng: the record's own.

    Returns:
      uint8 [H / factor, W / factor, 3].
    """
    height, width = image.shape[0] // factor, image.shape[1] // factor
    values = image / 255.0
    if factor == 4 and rng.random() < HALVED_SHARE:
        if rng.random() < 0.5:
            values = _resized(values, 2.0, str(rng.choice(RESIZES)))
        else:
            values = halved(values).clip(0, 1)
        factor = 2
    for step in _order(strength, rng):
        if step == "blur":
            values = _blurred(strength, values, factor, rng)
        elif step == "reduce":
            values = _reduced(strength, values, factor, rng)
        elif step == "fit":
            kind = str(rng.choice(RESIZES))
            values = resize_as_opencv(values, (height, width), kind).clip(0, 1)
        elif step == "noise":
            values = _noisy(strength, values, rng)
        elif rng.random() < JPEG_SHARE:
            values = _compressed(strength, values, rng) / 255.0
    return _compressed(strength, values, rng)


def _order(strength: Strength, rng) -> list[str]:
    """Shuffles the steps; the resize to the final size comes after the other one."""
    steps = ["blur"] * strength.num_blurs + ["reduce", "fit", "noise", "jpeg"]
    order = [steps[i] for i in rng.permutation(len(steps))]
    first, last = sorted((order.index("reduce"), order.index("fit")))
    order[first], order[last] = "reduce", "fit"
    return order


def _blurred(strength: Strength, values, factor: int, rng) -> np.ndarray:
    """Blurs with an oval or a round Gaussian of random size and width."""
    is_oval = rng.random() < 0.5
    size = int(rng.integers(2, 11 if is_oval else strength.round_size, endpoint=True))
    size = (2 * size if strength.odd_kernels else size) + 3
    if is_oval:
        variances = (4 + factor) / strength.blur_divisor * rng.random(2)
        angle = rng.random() * np.pi
    else:
        std = (2 + 0.2 * factor) / strength.blur_divisor * rng.random()
        variances, angle = np.array([std**2, std**2]), 0.0
    return _convolved(values, gaussian_kernel(size, variances, angle))


def gaussian_kernel(size: int, variances: np.ndarray, angle: float) -> np.ndarray:
    """Makes a Gaussian [size, size] with two principal variances; sums to 1."""
    place = np.arange(size) - (size - 1) / 2
    x, y = place[None, :], place[:, None]
    along = np.cos(angle) * x + np.sin(angle) * y
    across = np.sin(angle) * x - np.cos(angle) * y
    first, second = np.maximum(variances, 1e-6)
    exponent = -(along**2 / first + across**2 / second) / 2
    kernel = np.exp(exponent - exponent.max())  # not 0 / 0 for a very narrow one
    return kernel / kernel.sum()


def _convolved(values: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolves every channel; beyond its edges the image is mirrored."""
    from scipy.signal import fftconvolve  # a second of every command's start, else

    before, after = kernel.shape[0] // 2, (kernel.shape[0] - 1) // 2
    padded = np.pad(values, ((after, before), (after, before), (0, 0)), "reflect")
    return fftconvolve(padded, kernel[:, :, None], mode="valid", axes=(0, 1))


def _reduced(strength: Strength, values, factor: int, rng) -> np.ndarray:
    """Reduces by a random amount; or blurs and picks, as a camera's grid does."""
    if rng.random() < strength.resize_share:
        kind = str(rng.choice(RESIZES))
        return _resized(values, rng.uniform(1, 2 * factor), kind)
    variance = rng.uniform(0.1, 0.6 * factor) ** 2
    kernel = gaussian_kernel(25, np.array([variance, variance]), 0.0)
    # Moved by half of the grid's step, so that the picked image does not shift.
    place = (np.arange(25) + (factor - 1) / 2).clip(0, 24)
    move = np.maximum(1 - abs(place[:, None] - np.arange(25)[None, :]), 0)
    kernel = move @ kernel @ move.T
    values = _convolved(values, kernel / kernel.sum())
    return values[::factor, ::factor].clip(0, 1)


def _resized(values: np.ndarray, divisor: float, kind: str) -> np.ndarray:
    size = [max(1, int(side / divisor)) for side in values.shape[:2]]
    return resize_as_opencv(values, (size[0], size[1]), kind).clip(0, 1)


def halved(values: np.ndarray) -> np.ndarray:
    """Halves an image [H, W, 3], rounded down, by MATLAB's antialiased bicubic."""
    rows, columns = (_halving(side) for side in values.shape[:2])
    return np.einsum("ph,hwc,qw->pqc", rows, values, columns, optimize=True)


@functools.lru_cache(maxsize=64)
def _halving(length: int) -> np.ndarray:
    """Makes the matrix [length // 2, length] that halves one axis; rows sum to 1."""
    size = max(1, length // 2)
    scale = length / size
    centre = (np.arange(size) + 0.5) * scale - 0.5
    reach = int(np.ceil(2 * scale))
    taps = np.floor(centre)[:, None] + np.arange(1 - reach, reach + 1)[None, :]
    weights = _cubic((centre[:, None] - taps) / scale)
    weights /= weights.sum(1, keepdims=True)
    # MATLAB continues an image by its mirror image.
    taps = np.where(taps < 0, -1 - taps, taps)
    taps = np.where(taps >= length, 2 * length - 1 - taps, taps)
    matrix = np.zeros((size, length))
    places = taps.astype(int).clip(0, length - 1)
    np.add.at(matrix, (np.arange(size)[:, None], places), weights)
    return matrix


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -1/2."""
    x = abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def _noisy(strength: Strength, values: np.ndarray, rng) -> np.ndarray:
    """Adds Gaussian noise: of each channel, of all alike, or correlated in between."""
    level = rng.integers(*strength.noise, endpoint=True) / 255
    draw = rng.random()
    if draw > 0.6:
        noise = rng.normal(0, level, values.shape)
    elif draw < 0.4:
        noise = rng.normal(0, level, (*values.shape[:2], 1))
    else:
        axes, _ = np.linalg.qr(rng.random((3, 3)))
        covariance = axes.T @ np.diag(rng.random(3)) @ axes
        most = strength.noise[1] / 255  # of the drawn level's range, as released
        noise = rng.multivariate_normal(
            np.zeros(3),
            abs(most**2 * covariance),
            values.shape[:2],
            check_valid="ignore",  # the absolute values may cost positive definiteness
        )
    return (values + noise).clip(0, 1)


def _compressed(strength: Strength, values: np.ndarray, rng) -> np.ndarray:
    """Writes as JPEG of random quality and reads again: uint8."""
    file = io.BytesIO()
    quality = int(rng.integers(*strength.jpeg, endpoint=True))
    Image.fromarray(to_levels(255 * values)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))
