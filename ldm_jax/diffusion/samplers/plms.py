# SPDX-License-Identifier: Apache-2.0
"""The PLMS sampler: Liu et al. 2022, pseudo numerical methods, arXiv:2202.09778."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int32

from ldm_jax.diffusion.samplers.base import Legs, Sampler, evaluate
from ldm_jax.diffusion.samplers.grid import check_timesteps
from ldm_jax.diffusion.samplers.heun import euler_step
from ldm_jax.diffusion.schedule import NoiseSchedule

# Weights of this eps_hat and the last three, by number of step (Adams-Bashforth).
_WEIGHTS = np.array(
    [
        [1, 0, 0, 0],
        [3 / 2, -1 / 2, 0, 0],
        [23 / 12, -16 / 12, 5 / 12, 0],
        [55 / 24, -59 / 24, 37 / 24, -9 / 24],
    ],
    np.float32,
)


def plms(schedule: NoiseSchedule) -> Sampler:
    """Makes the pseudo linear multistep sampler.

    Each step is that of DDIM at eta 0 with eps_hat extrapolated from the last four
    (Eq. 12). The first step has nothing to extrapolate from and is one of Heun's
    method, so S steps cost S + 1 evaluations. Made for a grid of equal steps
    ("original").

    Raises:
      ValueError: the schedule has zero terminal SNR.

    Source: CompVis `PLMSSampler`.
    """
    schedule.check_alpha("plms")

    def init(z_T, timesteps):
        timesteps = check_timesteps(timesteps, schedule.num_timesteps)
        past = jnp.zeros((3, *z_T.shape), z_T.dtype)
        return {"z": z_T, "z_t": jnp.zeros_like(z_T), "past": past}, _legs(timesteps)

    def step(denoiser, state, leg, keys):
        del keys
        second, past = leg["second"], state["past"]
        alpha, sigma = schedule.levels(leg["at"])
        x0_hat = evaluate(denoiser, state["z"], leg["at"])
        eps_hat = (state["z"] - alpha * x0_hat) / sigma
        weights = leg["weights"]
        slope = weights[0] * eps_hat + jnp.tensordot(weights[1:], past, 1)
        z_t = jnp.where(second, state["z_t"], state["z"])
        z_s = euler_step(schedule, z_t, leg["t"], leg["s"], slope)
        # The second evaluation of the first step is not used for extrapolation.
        pushed = jnp.concatenate([eps_hat[None], past[:-1]])
        past = jnp.where(second, past, pushed)
        return {"z": z_s, "z_t": z_t, "past": past}, x0_hat

    return Sampler(init, step)


def _legs(timesteps: Int32[np.ndarray, " grid"]) -> Legs:
    """Makes S + 1 legs, two of them for step 0 (S = 1: one, a DDIM step)."""
    num_steps = len(timesteps) - 1
    step = np.arange(num_steps, dtype=np.int32)
    weights = _WEIGHTS[np.minimum(step, 3)]
    if num_steps == 1:
        at, second = timesteps[:1], np.array([False])
    else:
        step = np.insert(step, 1, 0)
        at = np.insert(timesteps[:-1], 1, timesteps[1])
        second = np.arange(num_steps + 1) == 1
        weights = np.insert(weights, 1, np.array([0.5, 0.5, 0, 0], np.float32), axis=0)
    return {
        "step": step,
        "at": at,
        "t": timesteps[step],
        "s": timesteps[step + 1],
        "second": second,
        "weights": weights,
    }
