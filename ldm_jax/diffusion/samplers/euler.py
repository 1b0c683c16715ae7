# SPDX-License-Identifier: Apache-2.0
"""Euler's method and its ancestral variant, in the coordinates of k-diffusion.

There the latent is x = z / alpha and the noise level r = sigma / alpha, so that
dx / dr = (x - x0_hat) / r = eps_hat (Karras et al. 2022, Eq. 3). We keep z, and write
each step so that it also holds at alpha = 0, where r is infinite.
"""

import jax.numpy as jnp

from ldm_jax.diffusion.samplers.base import (
    Sampler,
    evaluate,
    noise_like,
    one_leg_per_step,
)
from ldm_jax.diffusion.samplers.grid import check_timesteps
from ldm_jax.diffusion.schedule import NoiseSchedule


def euler(schedule: NoiseSchedule) -> Sampler:
    """Makes Euler's method: x_s = x_t + (r_s - r_t) * eps_hat. Order 1.

    On these coordinates it is DDIM at eta 0, said otherwise; kept under the name by
    which it is asked for.
    """

    def init(z_T, timesteps):
        timesteps = check_timesteps(timesteps, schedule.num_timesteps)
        return {"z": z_T}, one_leg_per_step(timesteps)

    def step(denoiser, state, leg, keys):
        del keys
        z_t, t, s = state["z"], leg["t"], leg["s"]
        alpha_t, sigma_t = schedule.levels(t)
        alpha_s, sigma_s = schedule.levels(s)
        x0_hat = evaluate(denoiser, z_t, t)
        # alpha_s * (x_t - r_t * eps_hat) is alpha_s * x0_hat; alpha_s * r_s is sigma_s.
        eps_hat = (z_t - alpha_t * x0_hat) / sigma_t
        return {"z": alpha_s * x0_hat + sigma_s * eps_hat}, x0_hat

    return Sampler(init, step)


def euler_ancestral(schedule: NoiseSchedule, temperature: float = 1.0) -> Sampler:
    """Makes the ancestral Euler method: a step past r_s, and noise back up to it.

        r_up^2 = r_s^2 * (1 - r_s^2 / r_t^2)        r_down = r_s^2 / r_t
        x_s = x0_hat + r_down * eps_hat + r_up * noise

    On these coordinates it is DDIM at eta 1.

    Args:
      schedule: NoiseSchedule of T steps.
      temperature: multiplies the noise added; 1 is the true process.

    Source: k-diffusion `sample_euler_ancestral`.
    """

    def init(z_T, timesteps):
        timesteps = check_timesteps(timesteps, schedule.num_timesteps)
        return {"z": z_T}, one_leg_per_step(timesteps)

    def step(denoiser, state, leg, keys):
        z_t, t, s = state["z"], leg["t"], leg["s"]
        alpha_t, sigma_t = schedule.levels(t)
        alpha_s, sigma_s = schedule.levels(s)
        x0_hat = evaluate(denoiser, z_t, t)
        eps_hat = (z_t - alpha_t * x0_hat) / sigma_t
        ratio = sigma_s * alpha_t / (alpha_s * sigma_t)  # r_s / r_t
        up = sigma_s * jnp.sqrt(1 - ratio**2)
        z_s = alpha_s * x0_hat + sigma_s * ratio * eps_hat
        z_s = z_s + up * temperature * noise_like(keys, z_t)
        return {"z": z_s}, x0_hat

    return Sampler(init, step)
