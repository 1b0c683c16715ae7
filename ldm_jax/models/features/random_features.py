# SPDX-License-Identifier: Apache-2.0
"""A feature network with fixed random weights, which needs no file and no download.

Frechet distances of its features distinguish noise, blur and wrong colours from
photographs, and rank models of one image set. The features do not depend on objects,
and the distance is never called FID.

Source: Naeem et al. 2020, Sec. 4.1, who embed images by randomly initialised networks.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ldm_jax.types import Array

SEED = 0
# Channels of each level; every level has half the side of the one before.
WIDTHS = (16, 32, 48)
NUM_FEATURES = 2 * sum(WIDTHS)
PRECISION = lax.Precision.HIGHEST


class RandomFeatures(nn.Module):
    """Levels of convolution, ReLU and 2x2 mean.

    The features are the mean and the standard deviation of every channel.
    """

    @nn.compact
    def __call__(self, image: Array) -> dict[str, Array]:
        """Computes features.

        Args:
          image: [B, H, W, 3] in [0, 255]; H and W are 4 or more.

        Returns:
          {"pool": [B, 192] float32}.
        """
        x = jnp.asarray(image.astype(jnp.float32) / 127.5 - 1)
        features = []
        for kernel in map(jnp.asarray, kernels()):
            x = lax.conv_general_dilated(
                x,
                kernel,
                (1, 1),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                precision=PRECISION,
            )
            x = jax.nn.relu(x)
            features += [x.mean((1, 2)), jnp.sqrt(x.var((1, 2)) + 1e-6)]
            x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        return {"pool": jnp.concatenate(features, axis=-1)}


@functools.cache
def kernels() -> tuple[np.ndarray, ...]:
    """Draws the kernels [3, 3, inputs, outputs] in NumPy: the same on every device."""
    rng = np.random.RandomState(SEED)  # whose stream NumPy never changes
    inputs, made = 3, []
    for width in WIDTHS:
        kernel = rng.standard_normal((3, 3, inputs, width))
        made.append(np.float32(kernel * np.sqrt(2 / (9 * inputs))))  # He et al. 2015
        inputs = width
    return tuple(made)
