# SPDX-License-Identifier: Apache-2.0
"""The UniPC sampler of order 2: Zhao et al. 2023, arXiv:2302.04867.

It predicts x0 and uses B(h) = e^h - 1.
"""

import jax.numpy as jnp

from ldm_jax.diffusion.samplers.base import Sampler, evaluate
from ldm_jax.diffusion.samplers.dpm_solver import extrapolate, legs_with_past
from ldm_jax.diffusion.samplers.grid import check_timesteps
from ldm_jax.diffusion.schedule import NoiseSchedule


def unipc(schedule: NoiseSchedule) -> Sampler:
    """Makes UniPC-2: steps of DPM-Solver++(2M), each corrected by the next evaluation.

    The network is evaluated at the predicted z_t. The step from q to t is then repeated
    with x0_hat at its end known, and the next step starts from the result. This costs
    no more evaluations than 2M (UniC, Algorithm 1; UniP, Algorithm 2).
    """

    def init(z_T, timesteps):
        timesteps = check_timesteps(timesteps, schedule.num_timesteps)
        zeros = jnp.zeros_like(z_T)
        # *_q: at the start of the last step; x0_hat_p: one before.
        state = {"z": z_T, "z_q": zeros, "x0_hat_q": zeros, "x0_hat_p": zeros}
        return state, legs_with_past(timesteps)

    def step(denoiser, state, leg, keys):
        del keys
        t, s = leg["t"], leg["s"]
        x0_hat = evaluate(denoiser, state["z"], t)
        corrected = _correct(schedule, state, leg, x0_hat)
        z_t = jnp.where(leg["step"] > 0, corrected, state["z"])
        _, sigma_t = schedule.levels(t)
        alpha_s, sigma_s = schedule.levels(s)
        h = schedule.half_log_snr(s) - schedule.half_log_snr(t)
        ahead = extrapolate(schedule, leg, x0_hat, state["x0_hat_q"])
        z_s = sigma_s / sigma_t * z_t - alpha_s * jnp.expm1(-h) * ahead
        state = {
            "z": z_s,
            "z_q": z_t,
            "x0_hat_q": x0_hat,
            "x0_hat_p": state["x0_hat_q"],
        }
        return state, x0_hat

    return Sampler(init, step)


def _correct(schedule, state, leg, x0_hat):
    """Repeats the step from q to t with x0_hat at t known (Eq. 9 with p = 1 or 2).

        z_t = sigma_t / sigma_q * z_q + alpha_t * (1 - e^-h) * (x0_hat_q
              + rho_1 * (x0_hat_p - x0_hat_q) / r + rho_2 * (x0_hat - x0_hat_q))

    with r = (lambda_p - lambda_q) / h and rho the solution of

        rho_1 + rho_2 = b_1        r * rho_1 + rho_2 = b_2

    The step from 0 to 1 has no p: rho_1 = 0, rho_2 = 1/2. Unused at step 0 itself.
    """
    has_p, has_q = leg["step"] > 1, leg["step"] > 0
    lambda_p, lambda_q, lambda_t = (
        schedule.half_log_snr(leg[name]) for name in ("p", "q", "t")
    )
    h = jnp.where(has_q, lambda_t - lambda_q, 1)
    r = jnp.where(has_p, (lambda_p - lambda_q) / h, -1)
    decay = jnp.expm1(-h)
    # b_k = k! * phi_{k+1}(-h) / phi_1(-h), in the exponentials of the paper's Eq. 10.
    phi_2 = -decay / h - 1
    phi_3 = -phi_2 / h - 0.5
    b_1, b_2 = phi_2 / decay, 2 * phi_3 / decay
    rho_1 = jnp.where(has_p, (b_2 - b_1) / (r - 1), 0)
    rho_2 = jnp.where(has_p, b_1 - rho_1, 0.5)
    _, sigma_q = schedule.levels(leg["q"])
    alpha_t, sigma_t = schedule.levels(leg["t"])
    x0_hat_q = state["x0_hat_q"]
    mixed = (
        x0_hat_q
        + rho_1 / r * (state["x0_hat_p"] - x0_hat_q)
        + rho_2 * (x0_hat - x0_hat_q)
    )
    return sigma_t / sigma_q * state["z_q"] - alpha_t * decay * mixed
