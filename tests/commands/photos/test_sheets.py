# SPDX-License-Identifier: Apache-2.0
"""The rows of a sheet: every class, or classes spread over all."""

import pytest

from ldm_jax.commands.photos.sheets import ROWS, row_conditions
from ldm_jax.conditions.registry import make_condition


@pytest.mark.parametrize("count", [2, 10, 300])
def test_rows_are_spread_over_the_classes(count):
    condition = make_condition("class", num_classes=count, width=8)
    y, names = row_conditions(condition, "")
    labels = y["label"].tolist()
    assert len(labels) == min(count, ROWS) and labels[0] == 0
    assert labels[-1] == count - 1 and names == [str(i) for i in labels]


def test_rows_have_the_names_of_the_classes():
    names = ("daisy", "rose")
    condition = make_condition("class", num_classes=2, width=8, class_names=names)
    assert row_conditions(condition, "")[1] == ["daisy", "rose"]


def test_without_a_condition_rows_have_no_names():
    y, names = row_conditions(make_condition("none"), "")
    assert y == {} and not any(names)
