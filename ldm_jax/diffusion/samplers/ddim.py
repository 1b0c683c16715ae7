# SPDX-License-Identifier: Apache-2.0
"""The DDIM sampler: Song, Meng & Ermon 2021, "Denoising Diffusion Implicit Models"."""

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


def ddim(
    schedule: NoiseSchedule,
    eta: Annotated[float, "noise added in each step: 0 is none, 1 is as in DDPM"] = 0.0,
    temperature: Temperature = 1.0,
) -> Sampler:
    """Makes the DDIM sampler; with alpha = sqrt(abar), sigma = sqrt(1 - abar):

        z_s = alpha_s * x0_hat + sqrt(sigma_s^2 - std^2) * eps_hat + std * noise   (12)
        std = eta * sigma_s / sigma_t * sqrt(1 - alpha_t^2 / alpha_s^2)            (16)

    Order 1 at eta = 0. The paper's alpha is alpha^2 here.

    Args:
      schedule: NoiseSchedule of T steps.
      eta: in [0, 1]; 0 adds no noise, 1 adds as much as DDPM.
      temperature: factor of the noise added; 1 is the true process.

    Raises:
      ValueError: eta outside [0, 1], a temperature below 0, or one with eta = 0
        (no noise).

    Source: Song et al. 2021, Eq. 12 and 16.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be in [0, 1]: got {eta}.")
    check_temperature(temperature)
    if eta == 0 and temperature != 1:
        raise ValueError(
            f"temperature={temperature} scales the noise added, and eta=0 adds none; "
            "raise eta or leave temperature at 1."
        )

    def init(z_T, timesteps):
        timesteps = check_timesteps(timesteps, schedule.num_timesteps)
        return {"z": z_T}, one_leg_per_step(timesteps)

    def step(denoiser, state, leg, keys):
        z_t, t, s = state["z"], leg["t"], leg["s"]
        alpha_t, sigma_t = schedule.levels(t)
        alpha_s, sigma_s = schedule.levels(s)
        x0_hat = evaluate(denoiser, z_t, t)
        eps_hat = (z_t - alpha_t * x0_hat) / sigma_t
        std = eta * sigma_s / sigma_t * jnp.sqrt(1 - (alpha_t / alpha_s) ** 2)  # (16)
        # Rounding may take the difference of two nearly equal squares below zero.
        sigma_rest = jnp.sqrt(jnp.maximum(sigma_s**2 - std**2, 0))
        z_s = alpha_s * x0_hat + sigma_rest * eps_hat  # (12)
        if eta > 0:
            z_s = z_s + std * temperature * noise_like(keys, z_t)
        return {"z": z_s}, x0_hat

    return Sampler(init, step)
