# SPDX-License-Identifier: Apache-2.0
"""A small model of pixels for the tests of sampling."""

import jax
import jax.numpy as jnp
import pytest

from ldm_jax.conditions.registry import make_condition
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.unet import UNet
from ldm_jax.tasks.model import LatentDiffusion

SIDE = 8


@pytest.fixture(scope="module")
def model_and_params():
    """A model of 8x8 pixels whose new denoiser predicts no noise."""
    unet = UNet(channels=32, channel_mult=(1,), out_channels=3, num_heads=1)
    model = LatentDiffusion(
        Autoencoder(bottleneck="pixels"),
        unet=unet,
        conditioner=make_condition("none"),
        schedule=make_schedule(),
    )
    z, t = jnp.zeros((1, SIDE, SIDE, 3)), jnp.zeros(1, jnp.int32)
    params = jax.jit(unet.init)(jax.random.key(0), z, t)["params"]
    return model, {"unet": params, "autoencoder": {}}
