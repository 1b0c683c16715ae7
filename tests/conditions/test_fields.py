# SPDX-License-Identifier: Apache-2.0
"""Shapes of the arrays of a condition."""

import types

from ldm_jax.conditions.fields import Field


def test_axes_are_numbers_sizes_of_the_batch_or_attributes_of_the_condition():
    field = Field("image", "image", ("B", "h", "width", 3), "float32")
    condition = types.SimpleNamespace(width=8)
    assert field.shape(condition, {"B": 2, "h": 4}) == (2, 4, 8, 3)
    assert field.shape(condition) == ("B", "h", 8, 3)
