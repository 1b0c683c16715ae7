# SPDX-License-Identifier: Apache-2.0
"""Euler's methods against k-diffusion's formulas and diffusers."""

import numpy as np
import pytest

from tests.diffusion.samplers.reference import (
    LEADING,
    assert_close,
    run_scheduler,
    run_with_noises,
    to_clean,
)
from tests.diffusion.samplers.steps import SCHEDULE, one_step


@pytest.mark.torch
def test_euler_ends_where_the_scheduler_of_diffusers_does():
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.EulerDiscreteScheduler(**LEADING)
    got, _ = run_with_noises("euler", to_clean(scheduler, 20))
    assert_close(got, run_scheduler(scheduler, 20, is_scaled=True))


@pytest.mark.torch
def test_euler_ancestral_ends_where_the_scheduler_of_diffusers_does(monkeypatch):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.EulerAncestralDiscreteScheduler(**LEADING)
    got, noises = run_with_noises("euler_ancestral", to_clean(scheduler, 20))
    torch = pytest.importorskip("torch")
    # This scheduler takes no noise: replace the noise that it draws by ours.
    drawn = iter(noises)
    monkeypatch.setattr(
        diffusers.schedulers.scheduling_euler_ancestral_discrete,
        "randn_tensor",
        lambda *args, **kwargs: torch.from_numpy(next(drawn)),
    )
    assert_close(got, run_scheduler(scheduler, 20, is_scaled=True))


@pytest.mark.parametrize(("name", "noisy"), [("euler", 0), ("euler_ancestral", 1)])
def test_eulers_steps_are_those_of_k_diffusion(name, noisy):
    """Oracle: a step on x = z / alpha, r = sigma / alpha, from z_t = 1, x0_hat = 0."""
    t, s = 700, 400
    (alpha_t, sigma_t), (alpha_s, sigma_s) = SCHEDULE.levels(t), SCHEDULE.levels(s)
    r_t, r_s = sigma_t / alpha_t, sigma_s / alpha_s
    r_up = noisy * np.sqrt(r_s**2 * (1 - r_s**2 / r_t**2))
    r_down = np.sqrt(r_s**2 - r_up**2)
    x_t, slope = 1 / alpha_t, 1 / alpha_t / r_t
    z_s = one_step(t, s, name)
    # 4096 values: four standard errors of the mean, relative error 1.1% of the spread.
    mean, std = alpha_s * (x_t + (r_down - r_t) * slope), alpha_s * r_up
    assert abs(z_s.mean() - mean) < 4 * std / 64 + 1e-5
    np.testing.assert_allclose(z_s.std(), std, rtol=0.04, atol=1e-6)
