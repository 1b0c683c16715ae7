# SPDX-License-Identifier: Apache-2.0
"""Every kind of condition: its fields, its null, and dropping."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditions.registry import CONDITIONS, make_condition
from tests.conditions.examples import (
    KINDS,
    B,
    batch,
    batch_of,
    frozen,
    make,
)

SHAPES = {
    "none": (None, None),
    "class": ((B, 1, 8), None),
    "text": ((B, 6, 8), None),
    "layout": ((B, 8, 8), None),
    "semantic": (None, (B, 4, 4, 2)),
    "superres": (None, (B, 4, 4, 3)),
    "inpaint": (None, (B, 4, 4, 4)),
    "retrieval": ((B, 3, 8), None),
    "hybrid": ((B, 6, 8), (B, 4, 4, 3)),
}


def test_every_kind_is_tried_here():
    assert set(KINDS) == set(CONDITIONS) == set(SHAPES)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_condition_and_null_enter_with_the_same_shapes(kind):
    condition, params, y = make(kind)
    cond = jax.eval_shape(condition.encode, params, y, frozen())
    null = jax.eval_shape(condition.encode, params, condition.null(y), frozen())
    for encoded in (cond, null):
        arrays = (encoded.context, encoded.concat)
        shapes = [None if x is None else x.shape for x in arrays]
        assert tuple(shapes) == SHAPES[kind]


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"none"}))
def test_null_is_one_and_the_same_for_every_sample(kind):
    """Identity: null does not depend on the condition that it replaces."""
    condition, params, y = make(kind)
    null = jax.jit(condition.encode)(params, condition.null(y), frozen())
    for x in jax.tree.leaves(null):
        np.testing.assert_allclose(x, jnp.broadcast_to(x[:1], x.shape), atol=1e-6)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"none"}))
def test_dropping_replaces_whole_samples_by_null(kind):
    condition, _, y = make(kind)
    null = condition.null(y)
    dropped = condition.drop(y, jax.random.key(3), 0.5)
    lost = np.asarray(jax.random.bernoulli(jax.random.key(3), 0.5, (B,)))
    assert 0 < lost.sum() < B
    for name in condition.fields:
        for i in range(B):
            source = null if lost[i] else y
            np.testing.assert_array_equal(dropped[name][i], source[name][i])
    assert condition.drop(y, jax.random.key(3), 0.0) is y


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_parameters_need_only_shapes(kind):
    """Shapes first: planning a run draws nothing."""
    condition, params, y = make(kind)
    shapes = jax.eval_shape(lambda: y)
    drawn = jax.eval_shape(lambda key: condition.init(key, shapes), jax.random.key(0))
    assert jax.tree.map(lambda x: x.shape, drawn) == jax.tree.map(
        lambda x: x.shape, params
    )


def test_missing_field_of_a_batch_is_named():
    condition = make_condition("class", num_classes=4)
    with pytest.raises(ValueError, match="reads label of a batch: got a batch of x"):
        condition.encode({}, {"x": jnp.zeros(1)})


def test_missing_first_stage_is_named():
    condition = make_condition("inpaint", **KINDS["inpaint"])
    with pytest.raises(ValueError, match=r'needs frozen\["autoencoder"\]'):
        condition.encode({}, batch())


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("none", None),
        ("class", None),
        ("semantic", (8, 8)),
        ("superres", (16, 16)),
        ("inpaint", (8, 8)),
        ("hybrid", (16, 16)),
    ],
)
def test_pictures_of_a_condition_set_the_size_of_samples(kind, size):
    assert make_condition(kind, **KINDS[kind]).image_size(batch_of(kind)) == size
