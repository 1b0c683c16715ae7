# SPDX-License-Identifier: Apache-2.0
"""An estimate follows the work: twice the steps take twice the time."""

import re

from ldm_jax.commands.photos import estimate
from ldm_jax.configs import photos


def minutes(**steps):
    config = photos.choose(images="./a", classes=("a", "b"), **steps)
    return float(re.search(r"diffusion (\d+)", estimate.estimate_time(config))[1])


def test_an_estimate_is_work_over_rate(monkeypatch):
    """Oracle: at one rate, minutes are proportional to steps."""
    monkeypatch.setattr(estimate, "flops_per_second", lambda: 1e9)
    assert minutes(num_steps=4000) / minutes(num_steps=1000) > 3.9


def test_the_rate_of_this_machine_is_measured():
    assert 1e8 < estimate.flops_per_second() < 1e14
