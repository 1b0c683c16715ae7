# SPDX-License-Identifier: Apache-2.0
"""DPM-Solver++ and its SDE variant against the schedulers of diffusers."""

import pytest

from tests.diffusion.samplers.reference import (
    COMMON,
    LEADING,
    assert_close,
    run_scheduler,
    run_with_noises,
    to_clean,
)


@pytest.mark.torch
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_dpm_solver_2m_ends_where_the_scheduler_of_diffusers_does(spacing):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **COMMON, timestep_spacing=spacing, steps_offset=1, solver_order=2
    )
    got, _ = run_with_noises("dpm_solver", to_clean(scheduler, 20))
    assert_close(got, run_scheduler(scheduler, 20))


@pytest.mark.torch
def test_dpm_solver_sde_2m_ends_where_the_scheduler_of_diffusers_does():
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **LEADING, algorithm_type="sde-dpmsolver++", solver_order=2
    )
    got, noises = run_with_noises("dpm_solver_sde", to_clean(scheduler, 20))
    assert_close(got, run_scheduler(scheduler, 20, noises))
