# SPDX-License-Identifier: Apache-2.0
"""The sampler heun: Karras et al. 2022, "Elucidating the Design Space", Alg. 1."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Int32

from ldm_jax.diffusion.samplers.base import Legs, Sampler, evaluate
from ldm_jax.diffusion.samplers.grid import check_timesteps
from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.types import Array


def heun(schedule: NoiseSchedule) -> Sampler:
    """Makes Heun's method: an Euler step, repeated with the mean of both slopes.

    With x = z / alpha and r = sigma / alpha, the slope dx / dr is eps:

        x'  = x_t + (r_s - r_t) * eps_hat(x_t, t)
        x_s = x_t + (r_s - r_t) * (eps_hat(x_t, t) + eps_hat(x', s)) / 2

    Order 2; two evaluations per step, and one for a step to clean, where r is 0.

    Raises:
      ValueError: the schedule has zero terminal SNR: r is infinite at its last step.
    """
    schedule.check_alpha("heun")

    def init(z_T, timesteps):
        timesteps = check_timesteps(timesteps, schedule.num_timesteps)
        zeros = jnp.zeros_like(z_T)
        return {"z": z_T, "z_t": zeros, "eps_hat": zeros}, _two_legs_per_step(timesteps)

    def step(denoiser, state, leg, keys):
        del keys
        second = leg["second"]
        alpha, sigma = schedule.levels(leg["at"])
        x0_hat = evaluate(denoiser, state["z"], leg["at"])
        eps_hat = (state["z"] - alpha * x0_hat) / sigma
        slope = jnp.where(second, (state["eps_hat"] + eps_hat) / 2, eps_hat)
        z_t = jnp.where(second, state["z_t"], state["z"])
        z_s = euler_step(schedule, z_t, leg["t"], leg["s"], slope)
        return {"z": z_s, "z_t": z_t, "eps_hat": eps_hat}, x0_hat

    return Sampler(init, step)


def euler_step(
    schedule: NoiseSchedule,
    z_t: Float[Array, "B h w c"],
    t: Int[Array, ""],
    s: Int[Array, ""],
    eps: Float[Array, "B h w c"],
) -> Float[Array, "B h w c"]:
    """Computes z_s along a constant slope: x_s = x_t + (r_s - r_t) * eps."""
    alpha_t, sigma_t = schedule.levels(t)
    alpha_s, sigma_s = schedule.levels(s)
    return alpha_s / alpha_t * (z_t - sigma_t * eps) + sigma_s * eps


def _two_legs_per_step(timesteps: Int32[np.ndarray, " grid"]) -> Legs:
    """Makes 2 S legs, evaluated at t and at s; without the last if s is clean."""
    num_steps = len(timesteps) - 1
    legs = {
        "step": np.repeat(np.arange(num_steps, dtype=np.int32), 2),
        "at": np.stack([timesteps[:-1], timesteps[1:]], 1).reshape(-1),
        "t": np.repeat(timesteps[:-1], 2),
        "s": np.repeat(timesteps[1:], 2),
        "second": np.tile([False, True], num_steps),
    }
    if timesteps[-1] < 0:
        legs = {name: entries[:-1] for name, entries in legs.items()}
    return legs
