# SPDX-License-Identifier: Apache-2.0
"""PLMS against the scheduler of diffusers."""

import pytest

from ldm_jax.diffusion.samplers.grid import make_timesteps
from tests.diffusion.samplers.reference import (
    LEADING,
    assert_close,
    run_scheduler,
    run_with_noises,
)


@pytest.mark.torch
def test_plms_ends_where_the_scheduler_of_diffusers_does():
    diffusers = pytest.importorskip("diffusers")
    got, _ = run_with_noises("plms", make_timesteps(20))
    scheduler = diffusers.PNDMScheduler(
        **LEADING, skip_prk_steps=True, set_alpha_to_one=False
    )
    assert_close(got, run_scheduler(scheduler, 20))
