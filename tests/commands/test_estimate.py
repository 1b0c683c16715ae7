# SPDX-License-Identifier: Apache-2.0
"""An estimate follows the work: twice the steps take twice the time."""

import re

import pytest

from ldm_jax.commands.estimate import estimate_time
from ldm_jax.configs import photos
from ldm_jax.training import estimate
from tests.training.test_estimate import seconds_of


def minutes(**steps):
    config = photos.choose(images="./a", classes=("a", "b"), **steps)
    text = re.search(r"diffusion (\S+ \w+)", estimate_time(config))[1]
    return seconds_of(text) / 60


def test_an_estimate_is_work_over_rate(monkeypatch):
    """Oracle: at one rate, minutes are proportional to steps."""
    monkeypatch.setattr(estimate, "flops_per_second", lambda: 1e9)
    assert minutes(num_steps=4000) / minutes(num_steps=1000) == pytest.approx(
        4, rel=0.1
    )
