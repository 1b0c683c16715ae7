# SPDX-License-Identifier: Apache-2.0
"""Euler's method and its ancestral variant, in the coordinates of k-diffusion.

There the latent is x = z / alpha and the noise level r = sigma / alpha, so that
dx / dr = (x - x0_hat) / r = eps_hat (Karras et al. 2022, Eq. 3). Multiplied by alpha_s,
both are DDIM, which also holds at alpha = 0, where r is infinite; they are kept under
the names by which they are asked for.
"""

from ldm_jax.diffusion.samplers.base import Sampler
from ldm_jax.diffusion.samplers.ddim import ddim
from ldm_jax.diffusion.schedule import NoiseSchedule


def euler(schedule: NoiseSchedule) -> Sampler:
    """Makes Euler's method, DDIM at eta 0: x_s = x_t + (r_s - r_t) * eps_hat. Order 1.

    alpha_s * (x_t - r_t * eps_hat) is alpha_s * x0_hat, and alpha_s * r_s is sigma_s.

    Args:
      schedule: NoiseSchedule of T steps.
    """
    return ddim(schedule)


def euler_ancestral(schedule: NoiseSchedule, temperature: float = 1.0) -> Sampler:
    """Makes the ancestral Euler method: a step past r_s, and noise back up to it.

        r_up^2 = r_s^2 * (1 - r_s^2 / r_t^2)        r_down = r_s^2 / r_t
        x_s = x0_hat + r_down * eps_hat + r_up * noise

    It is DDIM at eta 1: with alpha^2 + sigma^2 = 1, alpha_s * r_up is its std.

    Args:
      schedule: NoiseSchedule of T steps.
      temperature: multiplies the noise added; 1 is the true process.

    Source: k-diffusion `sample_euler_ancestral`.
    """
    return ddim(schedule, eta=1.0, temperature=temperature)
