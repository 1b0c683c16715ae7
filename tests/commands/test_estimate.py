# SPDX-License-Identifier: Apache-2.0
"""An estimate follows the work: twice the steps take twice the time."""

import re

import pytest

from ldm_jax.commands import estimate
from ldm_jax.configs import photos


def minutes(**steps):
    config = photos.choose(images="./a", classes=("a", "b"), **steps)
    text = re.search(r"diffusion (\S+ \w+)", estimate.estimate_time(config))[1]
    return seconds_of(text) / 60


def seconds_of(text):
    value, unit = text.split()
    units = dict(seconds=1, minutes=60, hours=3600, days=86_400)
    return float(value) * units[unit]


def test_an_estimate_is_work_over_rate(monkeypatch):
    """Oracle: at one rate, minutes are proportional to steps."""
    monkeypatch.setattr(estimate, "flops_per_second", lambda: 1e9)
    assert minutes(num_steps=4000) / minutes(num_steps=1000) == pytest.approx(
        4, rel=0.1
    )


def test_the_rate_of_this_machine_is_measured():
    assert 1e8 < estimate.flops_per_second() < 1e14


@pytest.mark.parametrize("seconds", [3, 100, 700, 6000, 30_000, 2e5, 3e6])
def test_a_duration_is_written_in_a_unit_that_fits_it(seconds):
    """Round trip, to the digits shown."""
    assert seconds_of(estimate.duration(seconds)) == pytest.approx(seconds, rel=0.07)
