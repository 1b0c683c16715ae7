# SPDX-License-Identifier: Apache-2.0
"""Retrieval: embeddings are the context as they are, in any order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditions.registry import make_condition
from ldm_jax.models.unet import UNet
from ldm_jax.types import Conditioning

RETRIEVAL = make_condition("retrieval", width=8, length=3)


def test_embeddings_are_the_context_and_null_is_zeros(tmp_path):
    array = np.random.default_rng(0).normal(size=(2, 4, 8))
    np.save(tmp_path / "e.npy", array)
    y = RETRIEVAL.from_user(str(tmp_path / "e.npy"))
    context = RETRIEVAL.encode({}, y).context
    np.testing.assert_array_equal(context, array.astype(np.float32))
    assert not RETRIEVAL.encode({}, RETRIEVAL.null(y)).context.any()


def test_the_order_of_neighbours_does_not_matter():
    """Identity: cross-attention does not know places; a doubled token counts twice."""
    attention = dict(num_heads=2, attention_levels=(0,), transformer_depth=1)
    unet = UNet(32, (1,), 2, num_res_blocks=1, context_dim=8, **attention)
    z, t = jax.random.normal(jax.random.key(0), (1, 4, 4, 2)), jnp.zeros(1, int)
    tokens = jax.random.normal(jax.random.key(1), (1, 3, 8))
    params = unet.init(jax.random.key(2), z, t, Conditioning(tokens))
    params = jax.tree.map(lambda x: x + 0.1, params)
    run = jax.jit(lambda c: unet.apply(params, z, t, Conditioning(c)))
    expected = run(tokens)
    np.testing.assert_allclose(run(tokens[:, ::-1]), expected, rtol=1e-3, atol=1e-4)
    doubled = run(tokens[:, jnp.array([0, 0, 1])])
    assert jnp.abs(doubled - run(tokens[:, jnp.array([0, 1, 1])])).max() > 1e-4


def test_the_first_neighbours_of_a_latent_are_the_tokens():
    """Oracle: by hand; raw, or of unit length."""
    stored = np.float16([[3, 4], [0, 2], [1, 0]])
    record = {"moments": np.zeros(1), "embeddings": stored}
    raw = make_condition("retrieval", width=2, length=2, unit_length=False)
    assert raw.prepare(record)["embeddings"].tolist() == [[3, 4], [0, 2]]
    unit = make_condition("retrieval", width=2, length=2)
    tokens = unit.prepare(record)["embeddings"]
    np.testing.assert_allclose(tokens, [[0.6, 0.8], [0, 1]])
    assert tokens.dtype == np.float32
    with pytest.raises(ValueError, match="zeros cannot be scaled to unit length"):
        unit.prepare({"embeddings": np.zeros((2, 2))})


@pytest.mark.parametrize("shape", [(2, 8), (3, 7), (3,)])
def test_latents_with_too_few_or_other_neighbours_are_refused(shape):
    with pytest.raises(ValueError, match="must store 3 neighbours of 8 numbers"):
        RETRIEVAL.prepare({"embeddings": np.zeros(shape)})
    with pytest.raises(ValueError, match="ldm-jax latents --database"):
        RETRIEVAL.prepare({"moments": np.zeros(1)})


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 8)), r"must be \[N, M, 8\].*got \(2, 8\)"),
        (np.zeros((2, 3, 7)), r"got \(2, 3, 7\)"),
        (np.full((1, 1, 8), np.nan), "must be finite numbers"),
    ],
)
def test_embeddings_of_another_shape_are_refused(array, message):
    with pytest.raises(ValueError, match=message):
        RETRIEVAL.from_user(array)
