# SPDX-License-Identifier: Apache-2.0
"""DDIM's steps against the original's sigmas and the scheduler of diffusers."""

import numpy as np
import pytest

from ldm_jax.diffusion.samplers import make_sampler
from ldm_jax.diffusion.samplers.grid import make_timesteps
from ldm_jax.diffusion.schedule import make_schedule
from tests.diffusion.samplers.reference import (
    LEADING,
    assert_close,
    run_scheduler,
    run_with_noises,
)
from tests.diffusion.samplers.steps import one_step

SCHEDULE = make_schedule()


@pytest.mark.parametrize(
    ("index", "sigma"),
    [(0, 0.02743209), (1, 0.0524426), (25, 0.37680537), (49, 0.56113833)],
)
def test_eta_adds_noise_of_the_originals_sigma(index, sigma):
    """Golden: ddim_sigmas of the original at S = 50, eta 1."""
    grid = make_timesteps(50)[::-1]
    z_s = one_step(grid[index + 1], grid[index], eta=1.0)
    # 4096 values: relative standard error 1.1%.
    np.testing.assert_allclose(z_s.std(), sigma, rtol=0.04)
    half = one_step(grid[index + 1], grid[index], eta=0.5)
    np.testing.assert_allclose(half.std(), sigma / 2, rtol=0.04)
    cool = one_step(grid[index + 1], grid[index], eta=1.0, temperature=0.1)
    np.testing.assert_allclose(cool.std(), sigma / 10, rtol=0.04)


def test_eta_0_adds_no_noise_and_bad_options_are_refused():
    assert one_step(501, 401).std() < 1e-6
    for eta in (-0.1, 1.1):
        with pytest.raises(ValueError, match="eta must be"):
            make_sampler("ddim", SCHEDULE, eta=eta)
    with pytest.raises(ValueError, match="temperature"):
        make_sampler("ddim", SCHEDULE, temperature=0.5)


@pytest.mark.torch
@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_ddim_ends_where_the_scheduler_of_diffusers_does(eta):
    diffusers = pytest.importorskip("diffusers")
    got, noises = run_with_noises("ddim", make_timesteps(20), eta=eta)
    scheduler = diffusers.DDIMScheduler(
        **LEADING, clip_sample=False, set_alpha_to_one=False
    )
    noises = noises if eta else None
    assert_close(got, run_scheduler(scheduler, 20, noises, eta=eta))
