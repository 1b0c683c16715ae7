# SPDX-License-Identifier: Apache-2.0
"""DDPM against its posterior and against DDIM at eta 1."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.process import posterior
from ldm_jax.diffusion.samplers import make_sampler
from ldm_jax.diffusion.samplers.base import initial_noise, run_sampler
from ldm_jax.diffusion.samplers.grid import make_timesteps
from ldm_jax.diffusion.schedule import make_schedule
from tests.diffusion.oracles import gaussian_denoiser
from tests.diffusion.samplers.steps import SCHEDULE


def run(name, **options):
    """Samples exact Gaussian data in ten steps."""

    @jax.jit
    def draw(key):
        return run_sampler(
            make_sampler(name, SCHEDULE, **options),
            gaussian_denoiser(SCHEDULE),
            initial_noise(key, (4, 4, 4, 1)),
            make_timesteps(10),
            key,
        )

    return draw(jax.random.key(0))


def test_ddim_at_eta_1_is_ancestral_sampling():
    """Identity: two ways to write one step, the same noise."""
    np.testing.assert_allclose(run("ddpm"), run("ddim", eta=1.0), atol=1e-4)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_ddpm_on_every_step_draws_from_the_posterior(share):
    """Identity: one step against `process.posterior`, mean and spread."""
    schedule = make_schedule(posterior_beta_share=share)
    shape, t = (1, 64, 64, 1), 300
    x0_hat, z_t = jnp.full(shape, 0.7), jnp.full(shape, -0.4)

    @functools.partial(jax.jit, static_argnums=0)
    def draw(temperature, key):
        sampler = make_sampler(
            "ddpm", schedule, variance=share, temperature=temperature
        )
        return run_sampler(sampler, lambda *_: x0_hat, z_t, np.array([t, t - 1]), key)

    z_s = draw(1.0, jax.random.key(0))
    mean, log_variance = posterior(schedule, x0_hat, z_t, jnp.array([t]))
    std = jnp.exp(0.5 * log_variance).item()
    assert abs(z_s.mean() - mean.mean()) < 4 * std / 64  # four standard errors
    np.testing.assert_allclose(z_s.std(), std, rtol=0.04)
    np.testing.assert_allclose(draw(0.0, jax.random.key(0)), mean, atol=1e-5)


def test_a_variance_outside_0_to_1_is_refused():
    with pytest.raises(ValueError, match="variance must be"):
        make_sampler("ddpm", SCHEDULE, variance=1.5)
