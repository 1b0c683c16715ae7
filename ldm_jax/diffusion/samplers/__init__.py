# SPDX-License-Identifier: Apache-2.0
"""Samplers: how noise is removed, one file each."""

from ldm_jax.diffusion.samplers.ddim import ddim
from ldm_jax.diffusion.samplers.ddpm import ddpm
from ldm_jax.diffusion.samplers.dpm_solver import dpm_solver, dpm_solver_sde
from ldm_jax.diffusion.samplers.euler import euler, euler_ancestral
from ldm_jax.diffusion.samplers.heun import heun
from ldm_jax.diffusion.samplers.plms import plms
from ldm_jax.diffusion.samplers.unipc import unipc

# Each makes a Sampler of a schedule and of options of its own.
SAMPLERS = {
    "ddim": ddim,
    "ddpm": ddpm,
    "dpm_solver": dpm_solver,
    "dpm_solver_sde": dpm_solver_sde,
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "heun": heun,
    "plms": plms,
    "unipc": unipc,
}


def make_sampler(name: str, schedule, **options):
    """Makes a sampler by name.

    Args:
      name: a key of `SAMPLERS`.
      schedule: NoiseSchedule of T steps.
      **options: of that sampler (eta of "ddim", variance of "ddpm", ...).

    Raises:
      ValueError: unknown name, or an option out of its range.
      TypeError: an option that the sampler does not have.
    """
    if name not in SAMPLERS:
        raise ValueError(f'unknown sampler "{name}"; one of: {", ".join(SAMPLERS)}.')
    return SAMPLERS[name](schedule, **options)
