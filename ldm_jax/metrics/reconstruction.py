# SPDX-License-Identifier: Apache-2.0
"""Compares reconstructions with their images: PSNR, SSIM, MS-SSIM."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Float32

from ldm_jax.models.resampling import halve
from ldm_jax.types import Array

PEAK = 2.0  # images are in [-1, 1]
# Structural similarity: a Gaussian window of 11 x 11 pixels, and two constants that
# keep quotients of small numbers stable, for intensities in [0, 1].
WINDOW, SIGMA = 11, 1.5
C_1, C_2 = 0.01**2, 0.03**2
# Weights of the five scales of MS-SSIM, the finest first.
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def psnr(
    image: Float[Array, "B H W C"], reconstruction: Float[Array, "B H W C"]
) -> Float32[Array, " B"]:
    """Computes the peak signal-to-noise ratio of each image.

        10 log10(peak^2 / mean squared difference), peak = 2

    Args:
      image: in [-1, 1].
      reconstruction: clamped to [-1, 1], as for display.

    Returns:
      PSNR in decibels; infinite for equal images.
    """
    difference = image - jnp.clip(reconstruction, -1, 1)
    mean_square = jnp.mean(jnp.square(difference), axis=(1, 2, 3))
    return 10 * jnp.log10(PEAK**2 / mean_square)


def ssim(
    image: Float[Array, "B H W C"], reconstruction: Float[Array, "B H W C"]
) -> Float32[Array, " B"]:
    """Computes the structural similarity of each image.

    This is the mean over all windows inside the image and over the channels.

    Args:
      image: in [-1, 1]; H and W are at least 11.
      reconstruction: clamped to [-1, 1].

    Returns:
      Values of at most 1; 1 for equal images.

    Raises:
      ValueError: the images are smaller than the window.

    Source: Wang et al. 2004, Eq. 13, with Gaussian weights and population variances.
    """
    luminance, structure = _similarities(image, jnp.clip(reconstruction, -1, 1))
    return jnp.mean(luminance * structure, axis=(1, 2, 3))


def ms_ssim(
    image: Float[Array, "B H W C"], reconstruction: Float[Array, "B H W C"]
) -> Float32[Array, " B"]:
    """Computes the multi-scale structural similarity of each image.

    Args:
      image: in [-1, 1]; H and W are at least 176, multiples of 16.
      reconstruction: clamped to [-1, 1].

    Returns:
      Values in [0, 1], 1 for equal images; a negative term counts as 0.

    Raises:
      ValueError: the images are too small or cannot be halved four times.

    Source: Wang et al. 2003, Eq. 7.
    """
    first, second = image, jnp.clip(reconstruction, -1, 1)
    half = 2 ** (len(SCALES) - 1)
    if any(side % half or side < WINDOW * half for side in image.shape[1:3]):
        raise ValueError(
            f"ms_ssim halves images {len(SCALES) - 1} times: got "
            f"{image.shape[1]}x{image.shape[2]}; each side must be a multiple of "
            f"{half}, at least {WINDOW * half}. Use ssim for smaller ones."
        )
    product = jnp.ones(len(image))
    for n, weight in enumerate(SCALES):
        luminance, structure = _similarities(first, second)
        is_last = n == len(SCALES) - 1
        term = luminance * structure if is_last else structure
        product *= jnp.maximum(jnp.mean(term, axis=(1, 2, 3)), 0) ** weight
        if not is_last:
            first, second = halve(first), halve(second)
    return product


def _similarities(x: Array, y: Array) -> tuple[Array, Array]:
    """Computes luminance and contrast times structure of every window."""
    if min(x.shape[1:3]) < WINDOW:
        raise ValueError(
            f"ssim needs images of at least {WINDOW}x{WINDOW} pixels: got "
            f"{x.shape[1]}x{x.shape[2]}."
        )
    # Intensities in [0, 1] minus 0.5, where squares lose the fewest digits.
    x, y = (a.astype(jnp.float32) / 2 for a in (x, y))
    mean_x, mean_y = _blur(x), _blur(y)
    # Grouped so that both quotients are exactly 1 for equal images.
    variances = (_blur(x * x) - mean_x**2) + (_blur(y * y) - mean_y**2)
    covariance = _blur(x * y) - mean_x * mean_y
    mean_x, mean_y = mean_x + 0.5, mean_y + 0.5
    luminance = (2 * mean_x * mean_y + C_1) / (mean_x**2 + mean_y**2 + C_1)
    return luminance, (2 * covariance + C_2) / (variances + C_2)


def _blur(x: Array) -> Array:
    """Averages [B, H, W, C] over the window: [B, H - 10, W - 10, C]."""
    offset = np.arange(WINDOW) - WINDOW // 2
    weight = np.exp(-0.5 * (offset / SIGMA) ** 2)
    kernel = jnp.asarray(weight / weight.sum(), jnp.float32)
    channels = x.shape[-1]
    for shape in ((WINDOW, 1, 1, 1), (1, WINDOW, 1, 1)):
        x = lax.conv_general_dilated(
            jnp.asarray(x),
            jnp.tile(kernel.reshape(shape), (1, 1, 1, channels)),
            (1, 1),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=channels,
            precision=lax.Precision.HIGHEST,
        )
    return x
