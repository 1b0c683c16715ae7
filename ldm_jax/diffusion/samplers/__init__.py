# SPDX-License-Identifier: Apache-2.0
"""Samplers: how noise is removed, one file each."""

from ldm_jax.diffusion.samplers.ddim import ddim

# Each is a maker: schedule, and options of its own -> Sampler.
SAMPLERS = {"ddim": ddim}
