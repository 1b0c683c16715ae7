# SPDX-License-Identifier: Apache-2.0
"""The rate of a machine is measured, and a duration has a unit that fits it."""

import pytest

from ldm_jax.training import estimate


def seconds_of(text):
    value, unit = text.split()
    units = dict(seconds=1, minutes=60, hours=3600, days=86_400)
    return float(value) * units[unit]


def test_the_rate_of_this_machine_is_measured():
    assert 1e8 < estimate.flops_per_second() < 1e14


@pytest.mark.parametrize("seconds", [3, 100, 700, 6000, 30_000, 2e5, 3e6])
def test_a_duration_is_written_in_a_unit_that_fits_it(seconds):
    """Round trip, to the digits shown."""
    assert seconds_of(estimate.duration(seconds)) == pytest.approx(seconds, rel=0.07)
