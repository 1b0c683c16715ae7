# SPDX-License-Identifier: Apache-2.0
"""The samplers euler and euler_ancestral of k-diffusion, computed by DDIM.

In their coordinates the latent is x = z / alpha and the noise level r = sigma / alpha,
so that dx / dr = (x - x0_hat) / r = eps_hat (Karras et al. 2022, Eq. 3). Multiplied by
alpha_s, both are DDIM, which is also defined at alpha = 0, where r is infinite. They
are listed under the names that users know.
"""

from ldm_jax.diffusion.samplers.base import Sampler
from ldm_jax.diffusion.samplers.ddim import ddim
from ldm_jax.diffusion.samplers.options import Temperature
from ldm_jax.diffusion.schedule import NoiseSchedule


def euler(schedule: NoiseSchedule) -> Sampler:
    """Makes Euler's method, which equals DDIM at eta 0.

        x_s = x_t + (r_s - r_t) * eps_hat

    alpha_s * (x_t - r_t * eps_hat) is alpha_s * x0_hat, and alpha_s * r_s is sigma_s.
    Order 1.

    Args:
      schedule: NoiseSchedule of T steps.
    """
    return ddim(schedule)


def euler_ancestral(
    schedule: NoiseSchedule,
    temperature: Temperature = 1.0,
) -> Sampler:
    """Makes the ancestral Euler method: a step below r_s, then noise up to r_s.

        r_up^2 = r_s^2 * (1 - r_s^2 / r_t^2)        r_down = r_s^2 / r_t
        x_s = x0_hat + r_down * eps_hat + r_up * noise

    It equals DDIM at eta 1: with alpha^2 + sigma^2 = 1, alpha_s * r_up is its std.

    Args:
      schedule: NoiseSchedule of T steps.
      temperature: factor of the noise added; 1 is the true process.

    Source: k-diffusion `sample_euler_ancestral`.
    """
    return ddim(schedule, eta=1.0, temperature=temperature)
