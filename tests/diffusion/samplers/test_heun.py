# SPDX-License-Identifier: Apache-2.0
"""Heun's method against the scheduler of diffusers."""

import numpy as np
import pytest

from tests.diffusion.samplers.reference import (
    LEADING,
    assert_close,
    run_scheduler,
    run_with_noises,
)


@pytest.mark.torch
def test_heun_ends_where_the_scheduler_of_diffusers_does():
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.HeunDiscreteScheduler(**LEADING)
    scheduler.set_timesteps(20)
    steps = np.append(scheduler.timesteps.numpy()[::2], -1).astype(np.int32)
    assert len(steps) == 21
    got, _ = run_with_noises("heun", steps)
    assert_close(got, run_scheduler(scheduler, 20, is_scaled=True))
