# SPDX-License-Identifier: Apache-2.0
"""Samplers, which turn noise into latents; one file each."""

from typing import Any

from ldm_jax.diffusion.samplers.base import Sampler
from ldm_jax.diffusion.samplers.ddim import ddim
from ldm_jax.diffusion.samplers.ddpm import ddpm
from ldm_jax.diffusion.samplers.dpm_solver import dpm_solver, dpm_solver_sde
from ldm_jax.diffusion.samplers.euler import euler, euler_ancestral
from ldm_jax.diffusion.samplers.heun import heun
from ldm_jax.diffusion.samplers.options import Option, options_of
from ldm_jax.diffusion.samplers.plms import plms
from ldm_jax.diffusion.samplers.unipc import unipc
from ldm_jax.diffusion.schedule import NoiseSchedule

# Each makes a Sampler from a schedule and the sampler's own options (options.py).
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


def make_sampler(name: str, schedule: NoiseSchedule, **options: Any) -> Sampler:
    """Makes a sampler by name.

    Args:
      name: a key of `SAMPLERS`.
      schedule: NoiseSchedule of T steps.
      **options: options of that sampler (eta of "ddim", variance of "ddpm", ...).

    Raises:
      ValueError: unknown name, or an option out of its range.
      TypeError: an option that the sampler does not have.
    """
    if name not in SAMPLERS:
        raise ValueError(f'unknown sampler "{name}"; one of: {", ".join(SAMPLERS)}.')
    return SAMPLERS[name](schedule, **options)


def options_by_name() -> dict[str, tuple[Option, tuple[str, ...]]]:
    """Lists the options of all samplers: name -> (option, samplers that have it)."""
    merged: dict[str, tuple[Option, tuple[str, ...]]] = {}
    for sampler, maker in SAMPLERS.items():
        for name, option in options_of(maker).items():
            first, samplers = merged.get(name, (option, ()))
            merged[name] = first, (*samplers, sampler)
    return merged
