# SPDX-License-Identifier: Apache-2.0
"""Rows of a batch stay on their devices: which axes divide them, and the constraint."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from ldm_jax.models.placement import keep_rows, rows_over


def make_mesh():
    return jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3)


@pytest.mark.parametrize(
    ("rows", "axes"), [(4, ("data", "fsdp")), (12, ("data", "fsdp")), (6, None)]
)
def test_rows_are_divided_by_both_axes_of_the_batch_or_by_none(rows, axes):
    """Closed form: 2 x 2 devices divide 4 and 12 rows, but not 6."""
    assert rows_over(make_mesh(), rows) == axes


def test_a_mesh_without_axes_of_the_batch_divides_nothing():
    mesh = jax.make_mesh((8,), ("tensor",), (AxisType.Auto,))
    assert not rows_over(mesh, 8)


def test_rows_are_constrained_under_a_mesh_and_values_stay():
    """Identity: the same numbers; the program pins the rows and leaves other axes."""
    x = jnp.arange(32.0).reshape(4, 8)
    with jax.set_mesh(make_mesh()):
        program = jax.make_jaxpr(keep_rows)(x)
        y = jax.jit(keep_rows)(x)
    (constraint,) = program.eqns
    assert constraint.primitive.name == "sharding_constraint"
    assert constraint.params["sharding"].spec[0] == ("data", "fsdp")
    assert y.sharding.spec[:1] == P(("data", "fsdp"))[:1]
    np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize("shape", [(6, 8), (4,)])
def test_rows_that_do_not_divide_and_vectors_are_left_alone(shape):
    """Closed form: no operation at all."""
    with jax.set_mesh(make_mesh()):
        assert not jax.make_jaxpr(keep_rows)(jnp.ones(shape)).eqns
    assert not jax.make_jaxpr(keep_rows)(jnp.ones((4, 8))).eqns
