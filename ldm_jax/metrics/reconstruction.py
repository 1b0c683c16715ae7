# SPDX-License-Identifier: Apache-2.0
"""How close a reconstruction is to its image."""

import jax.numpy as jnp

from ldm_jax.types import Array


def psnr(image: Array, reconstruction: Array) -> Array:
    """Computes the peak signal-to-noise ratio of each image.

        10 log10(peak^2 / mean squared difference), peak = 2

    Args:
      image: [B, H, W, C] in [-1, 1].
      reconstruction: [B, H, W, C]; clamped to [-1, 1], as it will be shown.

    Returns:
      [B] float32 in dB; infinite for equal images.
    """
    difference = image - jnp.clip(reconstruction, -1, 1)
    mean_square = jnp.mean(jnp.square(difference), axis=(1, 2, 3))
    return 10 * jnp.log10(4 / mean_square)
