# SPDX-License-Identifier: Apache-2.0
"""Limits of accelerators, by the name of a device and by a short one."""

import jax
import pytest

from ldm_jax.parallel.chips import CHIPS, GPUS, TPUS, chip_by_name, chip_of


def test_every_short_name_has_limits():
    """Identity: the tables of names and of limits have the same devices."""
    assert sorted([*GPUS.values(), *TPUS.values()]) == sorted(CHIPS)
    assert chip_by_name("v5e") is CHIPS["TPU v5 lite"]
    with pytest.raises(ValueError, match='unknown device "v3"; one of: a100, h100'):
        chip_by_name("v3")


def test_the_limits_of_a_cpu_are_not_known():
    assert chip_of(jax.devices()[0]) is None


def test_a_clock_follows_from_the_matrix_units():
    """Paper: 4 units of 128 x 128 on a v5e chip, 2 operations a product."""
    chip = CHIPS["TPU v5 lite"]
    assert chip.flops / chip.clock == pytest.approx(4 * 2 * 128**2, rel=0.01)
