# SPDX-License-Identifier: Apache-2.0
"""One step of a sampler, with x0_hat = 0."""

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.diffusion.samplers import make_sampler
from ldm_jax.diffusion.samplers.base import run_sampler
from ldm_jax.diffusion.schedule import make_schedule

SCHEDULE = make_schedule()


def one_step(t, s, name="ddim", **options):
    """Takes one step from z_t = 1 with x0_hat = 0."""
    sampler, grid = make_sampler(name, SCHEDULE, **options), np.array([t, s])
    z_t = jnp.ones((1, 64, 64, 1))
    draw = jax.jit(
        lambda key: run_sampler(sampler, lambda z, t: jnp.zeros_like(z), z_t, grid, key)
    )
    return draw(jax.random.key(0))
