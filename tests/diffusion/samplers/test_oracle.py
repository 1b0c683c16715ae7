# SPDX-License-Identifier: Apache-2.0
"""Every sampler on data whose best denoiser is known in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.samplers import SAMPLERS, make_sampler
from ldm_jax.diffusion.samplers.base import initial_noise, run_sampler
from ldm_jax.diffusion.samplers.grid import make_timesteps
from ldm_jax.diffusion.schedule import make_schedule
from tests.diffusion.oracles import (
    gaussian_denoiser,
    gaussian_flow,
    two_mode_denoiser,
)

SCHEDULE = make_schedule()
SHAPE = (1024, 4, 4, 1)  # 16384 values
STOCHASTIC = ("ddpm", "dpm_solver_sde", "euler_ancestral")
SECOND_ORDER = ("heun", "dpm_solver", "plms", "unipc")


@jax.jit(static_argnums=(0, 1, 2))
def run(name, make_denoiser, num_steps, schedule, key):
    """Samples on the original's grid; its end, t = 0, is a noise level like others."""
    sampler = make_sampler(name, schedule)
    z_T = initial_noise(key, SHAPE)
    timesteps = make_timesteps(num_steps)
    return run_sampler(sampler, make_denoiser(schedule), z_T, timesteps, key)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_sampler_carries_noise_to_gaussian_data(name):
    """Oracle: data N(mu, sd^2) seen at t = 0 is N(alpha mu, (alpha sd)^2 + sigma^2)."""
    z = run(name, gaussian_denoiser, 500, SCHEDULE, jax.random.key(0))
    alpha, sigma = SCHEDULE.levels(jnp.asarray(0))
    # 16384 values: standard error of the mean 0.0024, of the spread 0.0017. At 500
    # steps order 1 still lacks 0.01 of the spread.
    assert abs(z.mean() - alpha * 1.5) < 0.01
    lack = jnp.sqrt((alpha * 0.3) ** 2 + sigma**2) - z.std()
    assert -0.005 < lack < (0.005 if name in SECOND_ORDER else 0.012)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_sampler_finds_both_modes_in_their_proportion(name):
    """Oracle: modes -1 and 1.5 with weights 0.3 and 0.7, spread 0.2 each."""
    z = run(name, two_mode_denoiser, 500, SCHEDULE, jax.random.key(1))
    alpha, sigma = SCHEDULE.levels(jnp.asarray(0))
    upper, lower = z[z > 0.25], z[z <= 0.25]
    # 16384 values: standard error of the share 0.0036.
    assert abs(upper.size / z.size - 0.7) < 0.015
    spread = jnp.sqrt((alpha * 0.2) ** 2 + sigma**2)
    for mode, values in ((1.5, upper), (-1.0, lower)):
        assert abs(values.mean() - alpha * mode) < 0.015
        assert abs(values.std() - spread) < 0.012


@functools.cache
def error_after(name, num_steps):
    """Root mean square distance from the exact flow, from t = 999 to t = 39."""

    @jax.jit
    def solve(schedule, z_T):
        timesteps = np.linspace(999, 39, num_steps + 1).astype(np.int32)
        denoiser = gaussian_denoiser(schedule)
        sampler = make_sampler(name, schedule)
        z = run_sampler(sampler, denoiser, z_T, timesteps, jax.random.key(0))
        return z - gaussian_flow(schedule, z_T, 999, 39)

    z_T = jax.random.normal(jax.random.key(1), (16, 4, 4, 1))
    return float(jnp.sqrt(jnp.mean(solve(SCHEDULE, z_T) ** 2)))


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("ddim", 0.85, 1.15),
        ("euler", 0.85, 1.15),
        ("heun", 1.85, 2.15),
        # Above its order while the first step, of order 1, still weighs: 2.1 to 2.8.
        ("dpm_solver", 1.85, 3.0),
        ("plms", 1.8, 4.0),
        ("unipc", 1.85, 5.0),
    ],
)
def test_solver_converges_at_its_order(name, low, high):
    """Oracle: halving the steps of a solver of order p divides the error by 2^p."""
    coarse, fine = error_after(name, 16), error_after(name, 32)
    assert low < np.log2(coarse / fine) < high


def test_solvers_of_order_2_are_better_than_order_1_at_few_steps():
    """Oracle: distance from the exact flow after 16 steps."""
    first = error_after("ddim", 16)
    for name in SECOND_ORDER:
        assert error_after(name, 16) < first / 2.5, name


@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_samplers_draw_other_samples_for_other_keys(name):
    """Identity: the same z_T under two keys parts ways."""
    z_T = jax.random.normal(jax.random.key(0), (2, 4, 4, 1))

    @jax.jit
    def draw(key):
        denoiser = gaussian_denoiser(SCHEDULE)
        sampler = make_sampler(name, SCHEDULE)
        return run_sampler(sampler, denoiser, z_T, make_timesteps(5), key)

    difference = draw(jax.random.key(1)) - draw(jax.random.key(2))
    assert float(jnp.abs(difference).mean()) > 0.05


@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - {"heun", "plms"}))
def test_samplers_start_from_pure_noise_on_a_zero_terminal_snr(name):
    """Oracle: the same Gaussian, on a schedule whose last alpha is 0."""
    schedule = make_schedule(zero_terminal_snr=True)
    z_T = jax.random.normal(jax.random.key(0), (256, 4, 4, 1))

    @jax.jit
    def draw(key):
        denoiser = gaussian_denoiser(schedule)
        sampler = make_sampler(name, schedule)
        timesteps = make_timesteps(100, 1000, "even")
        return run_sampler(sampler, denoiser, z_T, timesteps, key)

    z = draw(jax.random.key(1))
    # From t = 9 straight to clean, where the denoiser's mean lacks some spread.
    assert abs(z.mean() - 1.5) < 0.02
    assert 0.23 < z.std() < 0.31


@pytest.mark.parametrize("name", ["heun", "plms"])
def test_samplers_that_divide_by_alpha_refuse_a_zero_terminal_snr(name):
    with pytest.raises(ValueError, match="zero_terminal_snr"):
        make_sampler(name, make_schedule(zero_terminal_snr=True))


def test_unknown_samplers_are_refused_with_the_list():
    with pytest.raises(ValueError, match="one of: ddim, ddpm, dpm_solver"):
        make_sampler("dimm", SCHEDULE)
