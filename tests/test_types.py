# SPDX-License-Identifier: Apache-2.0
"""Shapes in signatures are checked while tests run; see `CHECKED_PACKAGES`."""

import jax
import jax.numpy as jnp
import jaxtyping
import pytest
from beartype.door import is_bearable

from ldm_jax.diffusion import process, weighting
from ldm_jax.diffusion.samplers import base
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.types import RandomKey, Task

Z = jnp.ones((3, 4, 4, 2))
T = jnp.zeros(3, jnp.int32)
SCHEDULE = make_schedule()

# (function, arguments that fit, the same with one shape or dtype that does not).
CALLS = {
    "diffusion: another batch": (
        process.add_noise,
        (SCHEDULE, Z, T, Z),
        (SCHEDULE, Z, T, Z[:1]),
    ),
    "diffusion: a step that is not an integer": (
        process.to_v,
        (SCHEDULE, "x0", Z, T, Z),
        (SCHEDULE, "x0", Z, T.astype(jnp.float32), Z),
    ),
    "diffusion: a table of losses": (
        weighting.loss_by_bin,
        (T.astype(jnp.float32), T, 1000),
        (jnp.ones((3, 1)), T, 1000),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_with_a_wrong_shape_is_refused(name):
    """Identity: the same call passes with the shapes that its signature states."""
    function, fitting, wrong = CALLS[name]
    function(*fitting)
    with pytest.raises(jaxtyping.TypeCheckError):
        function(*wrong)


def test_a_result_of_a_wrong_shape_is_refused():
    """Identity: a denoiser that drops an axis is noticed where it is called."""
    with pytest.raises(jaxtyping.TypeCheckError, match="return value"):
        base.evaluate(lambda z_t, t: z_t[..., 0], Z, jnp.int32(0))


def test_shapes_are_checked_while_a_function_is_traced():
    """Identity: the wrong shape that eager code refuses, inside `jax.jit`."""
    with pytest.raises(jaxtyping.TypeCheckError):
        jax.jit(lambda z: process.add_noise(SCHEDULE, z, T, z[:1]))(Z)


def test_random_keys_are_typed_or_raw_one_or_many():
    """Identity: every form of key that JAX has; an array of other numbers is none."""
    key = jax.random.key(0)
    for keys in (key, jax.random.split(key), jax.random.PRNGKey(0)):
        assert is_bearable(keys, RandomKey)
    assert not is_bearable(jnp.zeros(2), RandomKey)


def test_a_task_is_traced_once_for_batches_of_one_shape():
    """Large networks take seconds to trace; several parts of a start need shapes."""
    traced = []

    def init(key, batch):
        traced.append(batch["x"].shape)
        weight = jax.random.normal(key, batch["x"].shape[1:])
        return {"net": {"weight": weight}}, {}

    task = Task(init, loss=max)
    (params, collections), again = (task.shapes({"x": Z}) for _ in range(2))
    assert traced == [Z.shape] and again == (params, collections)
    assert params["net"]["weight"].shape == Z.shape[1:] and not collections
    task.shapes({"x": jax.ShapeDtypeStruct((3, 8, 8, 2), Z.dtype)})
    assert traced == [Z.shape, (3, 8, 8, 2)]
    program, _ = task.trace_init({"x": Z})
    (weight,) = jax.core.eval_jaxpr(
        program.jaxpr, program.consts, key := jax.random.key(5)
    )
    assert (weight == init(key, {"x": Z})[0]["net"]["weight"]).all()
