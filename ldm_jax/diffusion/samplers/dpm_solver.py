# SPDX-License-Identifier: Apache-2.0
"""The samplers DPM-Solver++(2M) and SDE-DPM-Solver++(2M): arXiv:2211.01095."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int32

from ldm_jax.diffusion.samplers.base import (
    Leg,
    Legs,
    Sampler,
    evaluate,
    noise_like,
    one_leg_per_step,
)
from ldm_jax.diffusion.samplers.grid import check_timesteps
from ldm_jax.diffusion.samplers.options import Temperature, check_temperature
from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.types import Array


def dpm_solver(schedule: NoiseSchedule) -> Sampler:
    """Makes DPM-Solver++(2M); with lambda = ln(alpha / sigma), h = lambda_s - lambda_t:

        z_s = sigma_s / sigma_t * z_t + alpha_s * (1 - e^-h) * (x0_hat + slope * h / 2)

    where `slope` is dx0_hat / dlambda from this and the last prediction (Algorithm 2).
    Order 2; the first step, and a step to clean, where h is infinite, are of order 1.

    Source: Lu et al. 2022.
    """
    return _solver(schedule, is_sde=False)


def dpm_solver_sde(
    schedule: NoiseSchedule,
    temperature: Temperature = 1.0,
) -> Sampler:
    """Makes SDE-DPM-Solver++(2M), which adds noise (arXiv:2211.01095, Eq. 18):

        z_s = sigma_s / sigma_t * e^-h * z_t
              + alpha_s * (1 - e^-2h) * (x0_hat + slope * h / 2)
              + sigma_s * sqrt(1 - e^-2h) * noise

    Args:
      schedule: NoiseSchedule of T steps.
      temperature: factor of the noise added; 1 is the true process.

    Raises:
      ValueError: a temperature below 0.
    """
    check_temperature(temperature)
    return _solver(schedule, is_sde=True, temperature=temperature)


def _solver(schedule, is_sde, temperature=1.0) -> Sampler:
    def init(z_T, timesteps):
        timesteps = check_timesteps(timesteps, schedule.num_timesteps)
        return {"z": z_T, "x0_hat": jnp.zeros_like(z_T)}, legs_with_past(timesteps)

    def step(denoiser, state, leg, keys):
        z_t, t, s = state["z"], leg["t"], leg["s"]
        alpha_s, sigma_s = schedule.levels(s)
        _, sigma_t = schedule.levels(t)
        x0_hat = evaluate(denoiser, z_t, t)
        h = schedule.half_log_snr(s) - schedule.half_log_snr(t)
        ahead = extrapolate(schedule, leg, x0_hat, state["x0_hat"])
        if is_sde:
            fresh = -jnp.expm1(-2 * h)
            z_s = sigma_s / sigma_t * jnp.exp(-h) * z_t + alpha_s * fresh * ahead
            std = sigma_s * jnp.sqrt(fresh) * temperature
            z_s = z_s + std * noise_like(keys, z_t)
        else:
            z_s = sigma_s / sigma_t * z_t - alpha_s * jnp.expm1(-h) * ahead
        return {"z": z_s, "x0_hat": x0_hat}, x0_hat

    return Sampler(init, step)


def legs_with_past(timesteps: Int32[np.ndarray, " grid"]) -> Legs:
    """Makes S legs from t to s with the starts "q" and "p" of the last two.

    Before them, "q" and "p" repeat the first step. "order" is the number of predictions
    that a step may use: 1 for the first step and for a step to clean, otherwise 2.
    """
    legs = one_leg_per_step(timesteps)
    t, s, step = legs["t"], legs["s"], legs["step"]
    return legs | {
        "q": t[np.maximum(step - 1, 0)],
        "p": t[np.maximum(step - 2, 0)],
        "order": np.where((step > 0) & (s >= 0), 2, 1).astype(np.int32),
    }


def extrapolate(
    schedule: NoiseSchedule,
    leg: Leg,
    x0_hat: Float[Array, "B h w c"],
    x0_hat_q: Float[Array, "B h w c"],
) -> Float[Array, "B h w c"]:
    """Estimates x0_hat halfway from t to s: x0_hat + slope * h / 2, or x0_hat alone."""
    lambda_t = schedule.half_log_snr(leg["t"])
    h = schedule.half_log_snr(leg["s"]) - lambda_t
    past = lambda_t - schedule.half_log_snr(leg["q"])
    is_second = leg["order"] == 2
    half = jnp.where(is_second, h / (2 * jnp.where(is_second, past, 1)), 0)
    return x0_hat + half * (x0_hat - x0_hat_q)
