# SPDX-License-Identifier: Apache-2.0
"""States made from a task: their contents and their initialization."""

import jax
import numpy as np
import pytest

from ldm_jax.parallel.sharding import make_mesh
from ldm_jax.training.optimizer import make_optimizer
from ldm_jax.training.state import make_state
from tests.training.toy import FIELDS, make_task, options


def made(averaged):
    """Makes the toy's state on copies, with an average of one network."""
    parts = (make_task(), make_optimizer(), FIELDS, make_mesh())
    return make_state(*parts, options(ema_of=(averaged,)))


def test_a_state_has_the_shapes_announced_for_it():
    mesh = make_mesh(fsdp=4, data=2)
    shapes, make = make_state(
        *(make_task(), make_optimizer(), FIELDS, mesh),
        options(ema_of=("unet",), min_shard_mib=0),
    )
    state = make(jax.random.key(0))
    same = jax.tree.map(
        lambda s, x: (s.shape, s.dtype, s.sharding) == (x.shape, x.dtype, x.sharding),
        shapes,
        state,
    )
    assert all(jax.tree.leaves(same))
    assert int(state.step) == 0 and set(state.ema) == {"unet"}


def test_parameters_are_those_that_the_task_draws():
    """Identity: the task's own init, run whole."""
    _, make = made("unet")
    state = make(jax.random.key(3))
    params, collections = make_task().init(jax.random.key(3), FIELDS)
    jax.tree.map(np.testing.assert_array_equal, state.params, params)
    jax.tree.map(np.testing.assert_array_equal, state.collections, collections)
    jax.tree.map(np.testing.assert_array_equal, state.ema["unet"], params["unet"])


def test_averaged_params_take_the_average_where_there_is_one():
    _, make = made("unet")
    state = make(jax.random.key(0)).replace(ema={"unet": "average"})
    assert state.averaged_params()["unet"] == "average"
    assert state.averaged_params()["conditioner"] is state.params["conditioner"]


def test_an_average_of_an_unknown_network_is_refused():
    with pytest.raises(
        ValueError, match=r"\['unte'\]; it has \['conditioner', 'unet'\]"
    ):
        made("unte")
