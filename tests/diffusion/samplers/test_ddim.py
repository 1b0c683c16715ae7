# SPDX-License-Identifier: Apache-2.0
"""DDIM's steps against the original's sigmas, DDPM's posterior, and each other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.process import posterior
from ldm_jax.diffusion.samplers import make_sampler
from ldm_jax.diffusion.samplers.base import initial_noise, sample
from ldm_jax.diffusion.samplers.grid import make_timesteps
from ldm_jax.diffusion.schedule import make_schedule
from tests.diffusion.oracles import gaussian_denoiser

SCHEDULE = make_schedule()


def run(name, **options):
    """Samples exact Gaussian data in ten steps."""

    @jax.jit
    def draw(key):
        return sample(
            make_sampler(name, SCHEDULE, **options),
            gaussian_denoiser(SCHEDULE),
            initial_noise(key, (4, 4, 4, 1)),
            make_timesteps(10),
            key,
        )

    return draw(jax.random.key(0))


def one_step(t, s, name="ddim", **options):
    """Takes one step from z_t = 1 with x0_hat = 0."""
    sampler, grid = make_sampler(name, SCHEDULE, **options), np.array([t, s])
    z_t = jnp.ones((1, 64, 64, 1))
    draw = jax.jit(
        lambda key: sample(sampler, lambda z, t: jnp.zeros_like(z), z_t, grid, key)
    )
    return draw(jax.random.key(0))


@pytest.mark.parametrize(
    ("index", "sigma"),
    [(0, 0.02743209), (1, 0.0524426), (25, 0.37680537), (49, 0.56113833)],
)
def test_eta_adds_noise_of_the_originals_sigma(index, sigma):
    """Golden: ddim_sigmas of the original at S = 50, eta 1."""
    grid = make_timesteps(50)[::-1]
    z_s = one_step(grid[index + 1], grid[index], eta=1.0)
    # 4096 values: relative standard error 1.1%.
    np.testing.assert_allclose(z_s.std(), sigma, rtol=0.04)
    half = one_step(grid[index + 1], grid[index], eta=0.5)
    np.testing.assert_allclose(half.std(), sigma / 2, rtol=0.04)
    cool = one_step(grid[index + 1], grid[index], eta=1.0, temperature=0.1)
    np.testing.assert_allclose(cool.std(), sigma / 10, rtol=0.04)


def test_eta_0_adds_no_noise_and_bad_options_are_refused():
    assert one_step(501, 401).std() < 1e-6
    for eta in (-0.1, 1.1):
        with pytest.raises(ValueError, match="eta must be"):
            make_sampler("ddim", SCHEDULE, eta=eta)
    with pytest.raises(ValueError, match="temperature"):
        make_sampler("ddim", SCHEDULE, temperature=0.5)
    with pytest.raises(ValueError, match="variance must be"):
        make_sampler("ddpm", SCHEDULE, variance=1.5)


def test_ddim_at_eta_1_is_ancestral_sampling():
    """Identity: two ways to write one step, the same noise."""
    np.testing.assert_allclose(run("ddpm"), run("ddim", eta=1.0), atol=1e-4)


@pytest.mark.parametrize(("name", "noisy"), [("euler", 0), ("euler_ancestral", 1)])
def test_eulers_steps_are_those_of_k_diffusion(name, noisy):
    """Oracle: a step on x = z / alpha, r = sigma / alpha, from z_t = 1, x0_hat = 0."""
    t, s = 700, 400
    (alpha_t, sigma_t), (alpha_s, sigma_s) = SCHEDULE.levels(t), SCHEDULE.levels(s)
    r_t, r_s = sigma_t / alpha_t, sigma_s / alpha_s
    r_up = noisy * np.sqrt(r_s**2 * (1 - r_s**2 / r_t**2))
    r_down = np.sqrt(r_s**2 - r_up**2)
    x_t, slope = 1 / alpha_t, 1 / alpha_t / r_t
    z_s = one_step(t, s, name)
    # 4096 values: four standard errors of the mean, relative error 1.1% of the spread.
    mean, std = alpha_s * (x_t + (r_down - r_t) * slope), alpha_s * r_up
    assert abs(z_s.mean() - mean) < 4 * std / 64 + 1e-5
    np.testing.assert_allclose(z_s.std(), std, rtol=0.04, atol=1e-6)


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
        return sample(sampler, lambda *_: x0_hat, z_t, np.array([t, t - 1]), key)

    z_s = draw(1.0, jax.random.key(0))
    mean, log_variance = posterior(schedule, x0_hat, z_t, jnp.array([t]))
    std = jnp.exp(0.5 * log_variance).item()
    assert abs(z_s.mean() - mean.mean()) < 4 * std / 64  # four standard errors
    np.testing.assert_allclose(z_s.std(), std, rtol=0.04)
    np.testing.assert_allclose(draw(0.0, jax.random.key(0)), mean, atol=1e-5)
