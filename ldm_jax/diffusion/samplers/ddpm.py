# SPDX-License-Identifier: Apache-2.0
"""The DDPM sampler: Ho, Jain & Abbeel 2020, ancestral sampling on any grid."""

from typing import Annotated

import jax.numpy as jnp

from ldm_jax.diffusion.samplers.base import (
    Sampler,
    evaluate,
    noise_like,
    one_leg_per_step,
)
from ldm_jax.diffusion.samplers.grid import check_timesteps
from ldm_jax.diffusion.samplers.options import Temperature, check_temperature
from ldm_jax.diffusion.schedule import NoiseSchedule


def ddpm(
    schedule: NoiseSchedule,
    variance: Annotated[
        float, "variance of the noise: 0 is its lower bound, 1 its upper"
    ] = 0.0,
    temperature: Temperature = 1.0,
) -> Sampler:
    """Makes the ancestral sampler, which draws z_s from q(z_s | z_t, x0_hat).

    With abar the `alphas_cumprod`, and beta = 1 - abar_t / abar_s the variance added
    between s and t (the paper's beta_t where s = t - 1, the grid "even" with S = T):

        mean = sqrt(abar_s) * beta / (1 - abar_t) * x0_hat
               + sqrt(1 - beta) * (1 - abar_s) / (1 - abar_t) * z_t                 (7)
        beta_tilde = (1 - abar_s) / (1 - abar_t) * beta                             (7)
        z_s = mean + sqrt((1 - v) * beta_tilde + v * beta) * noise

    The step to clean adds no noise.

    Args:
      schedule: NoiseSchedule of T steps.
      variance: v in [0, 1]; 0 is optimal for data of one point, 1 for data of unit
        variance (section 3.2; CompVis `v_posterior`).
      temperature: factor of the noise added; 1 is the true process.

    Raises:
      ValueError: variance outside [0, 1], or a temperature below 0.
    """
    if not 0 <= variance <= 1:
        raise ValueError(f"variance must be in [0, 1]: got {variance}.")
    check_temperature(temperature)

    def init(z_T, timesteps):
        timesteps = check_timesteps(timesteps, schedule.num_timesteps)
        return {"z": z_T}, one_leg_per_step(timesteps)

    def step(denoiser, state, leg, keys):
        z_t, t, s = state["z"], leg["t"], leg["s"]
        alpha_t, sigma_t = schedule.levels(t)
        alpha_s, sigma_s = schedule.levels(s)
        x0_hat = evaluate(denoiser, z_t, t)
        beta = 1 - (alpha_t / alpha_s) ** 2
        mean = alpha_s * beta / sigma_t**2 * x0_hat
        mean = mean + alpha_t / alpha_s * (sigma_s / sigma_t) ** 2 * z_t
        beta_tilde = (sigma_s / sigma_t) ** 2 * beta
        std = jnp.sqrt((1 - variance) * beta_tilde + variance * beta)
        std = jnp.where(s < 0, 0, std * temperature)
        return {"z": mean + std * noise_like(keys, z_t)}, x0_hat

    return Sampler(init, step)
