# SPDX-License-Identifier: Apache-2.0
"""A small UNet for tests, and the shapes of its inputs."""

import jax
import jax.numpy as jnp

from ldm_jax.types import Conditioning

# 64 channels: with 32, GroupNorm's 32 groups are single channels, and whatever is
# constant over a channel (biases, the added time) is normalised away.
TINY = dict(
    channels=64,
    channel_mult=(1, 2),
    num_res_blocks=1,
    out_channels=4,
    head_channels=32,
)


def example(unet, size=4, batch=2):
    """Shapes of z_t, t and cond that a UNet takes."""
    shape = jax.ShapeDtypeStruct
    extra = (unet.in_channels or unet.out_channels) - unet.out_channels
    context = concat = label = None
    if unet.context_dim:
        context = shape((batch, 3, unet.context_dim), jnp.float32)
    if extra:
        concat = shape((batch, size, size, extra), jnp.float32)
    if unet.num_classes:
        label = shape((batch,), jnp.int32)
    z_t = shape((batch, size, size, unet.out_channels), jnp.float32)
    return z_t, shape((batch,), jnp.int32), Conditioning(context, concat, label)
