# SPDX-License-Identifier: Apache-2.0
"""The denoiser's error with the wrong condition, where the right answer is known."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.commands.evaluation.condition_gap import LEVELS, condition_errors
from ldm_jax.conditions.registry import make_condition
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.tasks.model import LatentDiffusion

NUM_CLASSES = 4


class Repeats:
    """A denoiser that predicts its class' number; of the noise it sees nothing."""

    def apply(self, variables, z_t, t, cond):
        assert variables == {"params": "the denoiser's"}
        return jnp.broadcast_to(cond.context[:, :, None], z_t.shape)


@pytest.mark.parametrize("level", range(LEVELS))
def test_errors_are_those_of_the_given_condition(level):
    """Closed form: latents equal to their class, predicted from the class alone."""
    model = LatentDiffusion(
        Autoencoder(channels=32, channel_mult=(1,), latent_channels=1),
        conditioner=make_condition("class", num_classes=NUM_CLASSES, width=1),
        unet=Repeats(),
        schedule=make_schedule(),
        prediction="x0",
    )
    numbers = np.arange(NUM_CLASSES + 1, dtype=np.float32)[:, None]
    params = {"unet": "the denoiser's", "conditioner": {"embedding": numbers}}
    label = np.arange(NUM_CLASSES)
    mean = np.broadcast_to(numbers[:-1, :, None, None], (NUM_CLASSES, 2, 2, 1))
    moments = np.concatenate([mean, np.full_like(mean, -60)], axis=-1)
    batch = {"moments": moments, "label": label}
    wrong = {"label": np.roll(label, 1)}
    actual = condition_errors(model, params, batch, wrong, jax.random.key(0), level)
    expected = np.square(
        [label - label, np.roll(label, 1) - label, NUM_CLASSES - label]
    )
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_each_level_draws_its_part_of_t():
    """Noise: the time steps that the model receives fill the level's quarter."""
    seen = []

    class Notes(Repeats):
        def apply(self, variables, z_t, t, cond):
            seen.append(np.asarray(t))
            return z_t

    identity = types.SimpleNamespace(null=lambda batch: batch)
    model = types.SimpleNamespace(
        latent=lambda moments, key: moments,
        encode_condition=lambda params, y: None,
        conditioner=identity,
        unet=Notes(),
        schedule=make_schedule(),
        prediction="v",
    )
    for level in range(LEVELS):
        batch = {"moments": jnp.zeros((200, 1, 1, 1))}
        errors = condition_errors(
            model, {"unet": {}}, batch, batch, jax.random.key(1), level
        )
        assert errors.shape == (3, 200)
    parts = np.stack(seen).reshape(LEVELS, -1)
    lows = 250 * np.arange(LEVELS)
    assert (parts.min(1) >= lows).all() and (parts.max(1) < lows + 250).all()
    assert (np.ptp(parts, axis=1) > 225).all()
