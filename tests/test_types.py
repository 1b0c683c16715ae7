# SPDX-License-Identifier: Apache-2.0
"""Shapes in signatures are checked while tests run; see `CHECKED_PACKAGES`."""

import typing
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from beartype.door import is_bearable

from ldm_jax import types
from ldm_jax.diffusion import process, weighting
from ldm_jax.diffusion.samplers import base
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.types import RandomKey

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


@pytest.mark.parametrize(
    ("annotation", "good", "bad", "noun"),
    [
        (int, [3, np.int64(3)], [3.0, True, "3", None, {}], "a whole number"),
        (float, [3, 0.5, np.float32(1)], ["a", False, None, [1.0]], "a number"),
        (bool, [True], [1, "true", None], "True or False"),
        (str, [""], [1, None, ["a"], {}], "a text"),
        (int | None, [None, 1], ["a", 1.5], "a whole number or None"),
        (float | str, [1, "a"], [None, (1,)], "a number or a text"),
        (tuple[int, ...], [(), [1, 2]], [(1, "a"), "12", 1], "a tuple, each a whole"),
        (tuple[int, int], [(1, 2)], [(1,), (1, 2, 3), (1, None)], "a tuple, each a"),
        (Sequence[str], [("a",)], ["a", (1,)], "a tuple, each a text"),
        (Mapping[str, int] | None, [{}, None], [[1], "a", 1], "a dict of settings"),
        (typing.Annotated[int, "steps"], [1], ["1"], "a whole number"),
    ],
)
def test_a_setting_of_another_type_is_refused(annotation, good, bad, noun):
    for value in good:
        types.check_type("config.x", value, annotation, "leave it out")
    for value in bad:
        with pytest.raises(ValueError, match=rf"^config\.x must be {noun}.*leave it"):
            types.check_type("config.x", value, annotation, "leave it out")


def test_annotations_of_objects_accept_every_value():
    for annotation in (typing.Any, types.DType, np.ndarray | None):
        types.check_type("config.x", {}, annotation, "leave it out")


def test_the_value_is_shortened_in_the_error():
    with pytest.raises(ValueError) as raised:
        types.check_type("config.x", [10**5000] * 10**6, int, "leave it out")
    assert len(str(raised.value)) < 300
