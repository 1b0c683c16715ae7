# SPDX-License-Identifier: Apache-2.0
"""UniPC against the scheduler of diffusers."""

import pytest

from tests.diffusion.samplers.reference import (
    LEADING,
    assert_close,
    run_scheduler,
    run_with_noises,
    to_clean,
)


@pytest.mark.torch
def test_unipc_ends_where_the_scheduler_of_diffusers_does():
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.UniPCMultistepScheduler(**LEADING, solver_order=2)
    got, _ = run_with_noises("unipc", to_clean(scheduler, 20))
    assert_close(got, run_scheduler(scheduler, 20))
