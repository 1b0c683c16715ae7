# SPDX-License-Identifier: Apache-2.0
"""The schedulers of diffusers, walked over the same exact denoiser."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.process import per_sample
from ldm_jax.diffusion.samplers import make_sampler
from ldm_jax.diffusion.samplers.base import Sampler, initial_noise, noise_like, sample
from ldm_jax.diffusion.samplers.grid import make_timesteps
from ldm_jax.diffusion.schedule import make_schedule
from tests.diffusion.oracles import two_mode_denoiser

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.torch

SCHEDULE = make_schedule()
COMMON = dict(beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear")
LEADING = COMMON | dict(timestep_spacing="leading", steps_offset=1)
CLIP_OFF = dict(clip_sample=False, set_alpha_to_one=False)


def eps_hat(z_t, t):
    """The exact eps_hat for two-mode data; torch in and out."""
    z_t, t = jnp.asarray(z_t.numpy()), jnp.full(z_t.shape[:1], int(t), jnp.int32)
    alpha, sigma = (per_sample(level, z_t) for level in SCHEDULE.levels(t))
    return torch.from_numpy(
        np.array((z_t - alpha * two_mode_denoiser(SCHEDULE)(z_t, t)) / sigma)
    )


def theirs(scheduler, z_T, num_steps, noises=None, is_scaled=False, **options):
    """Walks a scheduler; `is_scaled`: its latents are z / alpha, as in k-diffusion.

    `noises` [S, B, h, w, c] stand in for what the scheduler would draw.
    """
    scheduler.set_timesteps(num_steps)
    z = torch.from_numpy(np.array(z_T))
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


def ours(name, z_T, timesteps, **options):
    """Our latents, and the noises drawn on the way."""
    sampler = make_sampler(name, SCHEDULE, **options)
    noises = []

    def step(denoiser, state, leg, keys):
        jax.debug.callback(
            lambda noise: noises.append(np.array(noise)),
            noise_like(keys, z_T),
            ordered=True,
        )
        return sampler.step(denoiser, state, leg, keys)

    denoiser = two_mode_denoiser(SCHEDULE)
    z = sample(Sampler(sampler.init, step), denoiser, z_T, timesteps, jax.random.key(1))
    jax.effects_barrier()
    return np.asarray(z), noises


@pytest.fixture
def z_T():
    return initial_noise(jax.random.key(0), (4, 4, 4, 1))


def assert_close(got, expected):
    error = np.linalg.norm(got - expected) / np.linalg.norm(expected)
    # Float32, and schedulers that keep log-SNR or sigma in float32.
    assert error < 1e-3, error


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_ddim(z_T, eta):
    got, noises = ours("ddim", z_T, make_timesteps(20), eta=eta)
    scheduler = diffusers.DDIMScheduler(**LEADING, **CLIP_OFF)
    noises = noises if eta else None
    assert_close(got, theirs(scheduler, z_T, 20, noises, eta=eta))


def test_plms(z_T):
    got, _ = ours("plms", z_T, make_timesteps(20))
    scheduler = diffusers.PNDMScheduler(
        **LEADING, skip_prk_steps=True, set_alpha_to_one=False
    )
    assert_close(got, theirs(scheduler, z_T, 20))


def to_clean(scheduler, num_steps):
    """The scheduler's own steps, ended at clean."""
    scheduler.set_timesteps(num_steps)
    return np.append(scheduler.timesteps.numpy(), -1).astype(np.int32)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_dpm_solver_2m(z_T, spacing):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **COMMON, timestep_spacing=spacing, steps_offset=1, solver_order=2
    )
    got, _ = ours("dpm_solver", z_T, to_clean(scheduler, 20))
    assert_close(got, theirs(scheduler, z_T, 20))


def test_dpm_solver_sde_2m(z_T):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **LEADING, algorithm_type="sde-dpmsolver++", solver_order=2
    )
    got, noises = ours("dpm_solver_sde", z_T, to_clean(scheduler, 20))
    assert_close(got, theirs(scheduler, z_T, 20, noises))


def test_unipc(z_T):
    scheduler = diffusers.UniPCMultistepScheduler(**LEADING, solver_order=2)
    got, _ = ours("unipc", z_T, to_clean(scheduler, 20))
    assert_close(got, theirs(scheduler, z_T, 20))


def test_euler(z_T):
    scheduler = diffusers.EulerDiscreteScheduler(**LEADING)
    got, _ = ours("euler", z_T, to_clean(scheduler, 20))
    assert_close(got, theirs(scheduler, z_T, 20, is_scaled=True))


def test_euler_ancestral(z_T, monkeypatch):
    scheduler = diffusers.EulerAncestralDiscreteScheduler(**LEADING)
    got, noises = ours("euler_ancestral", z_T, to_clean(scheduler, 20))
    # This scheduler takes no noise; hand it ours where it draws its own.
    drawn = iter(noises)
    monkeypatch.setattr(
        diffusers.schedulers.scheduling_euler_ancestral_discrete,
        "randn_tensor",
        lambda *args, **kwargs: torch.from_numpy(next(drawn)),
    )
    assert_close(got, theirs(scheduler, z_T, 20, is_scaled=True))


def test_heun(z_T):
    scheduler = diffusers.HeunDiscreteScheduler(**LEADING)
    scheduler.set_timesteps(20)
    steps = np.append(scheduler.timesteps.numpy()[::2], -1).astype(np.int32)
    assert len(steps) == 21
    got, _ = ours("heun", z_T, steps)
    assert_close(got, theirs(scheduler, z_T, 20, is_scaled=True))
