# SPDX-License-Identifier: Apache-2.0
"""The schedulers of diffusers, run with the same exact denoiser as our samplers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.process import per_sample
from ldm_jax.diffusion.samplers import make_sampler
from ldm_jax.diffusion.samplers.base import (
    Sampler,
    initial_noise,
    noise_like,
    run_sampler,
)
from ldm_jax.diffusion.schedule import make_schedule
from tests.diffusion.oracles import two_mode_denoiser

SCHEDULE = make_schedule()


COMMON = dict(beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear")


LEADING = COMMON | dict(timestep_spacing="leading", steps_offset=1)


Z_T = initial_noise(jax.random.key(0), (4, 4, 4, 1))


def eps_hat(z_t, t):
    """The exact eps_hat for two-mode data; torch in and out."""
    torch = pytest.importorskip("torch")
    z_t, t = jnp.asarray(z_t.numpy()), jnp.full(z_t.shape[:1], int(t), jnp.int32)
    alpha, sigma = (per_sample(level, z_t) for level in SCHEDULE.levels(t))
    return torch.from_numpy(
        np.array((z_t - alpha * two_mode_denoiser(SCHEDULE)(z_t, t)) / sigma)
    )


def run_scheduler(scheduler, num_steps, noises=None, is_scaled=False, **options):
    """Runs a scheduler; `is_scaled`: its latents are z / alpha, as in k-diffusion.

    `noises` [S, B, h, w, c] replace the noise that the scheduler would draw.
    """
    torch = pytest.importorskip("torch")
    scheduler.set_timesteps(num_steps)
    z = torch.from_numpy(np.array(Z_T))
    if is_scaled:
        z = z / SCHEDULE.levels(int(scheduler.timesteps[0]))[0].item()
    for index, t in enumerate(scheduler.timesteps):
        z_in = z
        if is_scaled:
            z_in = scheduler.scale_model_input(z, t)
        if noises is not None:
            options["variance_noise"] = torch.from_numpy(np.array(noises[index]))
        z = scheduler.step(eps_hat(z_in, t), t, z, **options).prev_sample
    return z.numpy()


def run_with_noises(name, timesteps, **options):
    """Returns our latents, and the noises that were drawn."""
    sampler = make_sampler(name, SCHEDULE, **options)
    noises = []

    def step(denoiser, state, leg, keys):
        jax.debug.callback(
            lambda noise: noises.append(np.array(noise)),
            noise_like(keys, Z_T),
            ordered=True,
        )
        return sampler.step(denoiser, state, leg, keys)

    denoiser = two_mode_denoiser(SCHEDULE)
    z = run_sampler(
        Sampler(sampler.init, step), denoiser, Z_T, timesteps, jax.random.key(1)
    )
    jax.effects_barrier()
    return np.asarray(z), noises


def assert_close(got, expected):
    error = np.linalg.norm(got - expected) / np.linalg.norm(expected)
    # Float32, and schedulers that keep log-SNR or sigma in float32.
    assert error < 1e-3, error


def to_clean(scheduler, num_steps):
    """The scheduler's own steps, ended at clean."""
    scheduler.set_timesteps(num_steps)
    return np.append(scheduler.timesteps.numpy(), -1).astype(np.int32)
