# SPDX-License-Identifier: Apache-2.0
"""`ldm_jax.sample`: its inputs, and its use within a compiled function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.samplers.base import initial_noise
from ldm_jax.tasks.sample_latents import sample
from ldm_jax.types import Conditioning
from tests.tasks.conftest import SIDE


def test_an_unconditional_model_takes_none_as_its_condition(model_and_params):
    model, params = model_and_params
    z, t = jnp.ones((2, SIDE, SIDE, 3)), jnp.full(2, 500)
    expected = model.denoise(params, z, t, Conditioning())
    np.testing.assert_array_equal(model.denoise(params, z, t, None), expected)
    options = dict(z_T=z, num_steps=2, grid="even")
    np.testing.assert_array_equal(
        sample(model, params, None, **options),
        sample(model, params, Conditioning(), **options),
    )


def test_latents_and_condition_of_two_batch_sizes_are_refused(model_and_params):
    model, params = model_and_params
    z, cond = jnp.ones((2, SIDE, SIDE, 3)), Conditioning(jnp.ones((3, 1, 8)))
    message = "got 2 latents and context of 3 rows"
    with pytest.raises(ValueError, match=message):
        model.denoise(params, z, jnp.zeros(2, jnp.int32), cond)
    with pytest.raises(ValueError, match=message):
        sample(model, params, cond, z_T=z)


def test_sampling_may_be_a_part_of_a_compiled_function(model_and_params):
    model, params = model_and_params
    z_T = initial_noise(jax.random.key(1), (2, SIDE, SIDE, 3))

    def draw(params, z_T):
        return sample(model, params, None, z_T=z_T, num_steps=2)

    inside = jax.jit(draw)(params, z_T)
    np.testing.assert_allclose(inside, draw(params, z_T), rtol=1e-5, atol=1e-5)
