# SPDX-License-Identifier: Apache-2.0
"""The parts of a transformer block against their formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.models.layers import Dense, DenseHalves
from ldm_jax.models.transformer import Attention, GatedMLP, gelu


def test_gelu_is_the_share_of_the_normal_distribution_below():
    """Closed form in float64; bfloat16 is computed in float32."""
    x = np.linspace(-8, 8, 1001, dtype=np.float32)
    expected = [v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x.astype(np.float64)]
    np.testing.assert_allclose(gelu(jnp.asarray(x)), expected, atol=1e-6)
    assert gelu(jnp.ones(1, jnp.bfloat16)).dtype == jnp.float32


def test_halves_are_those_of_one_linear_map():
    x = jax.random.normal(jax.random.key(0), (2, 5, 3))
    whole = Dense(8)
    params = whole.init(jax.random.key(1), x)
    halves = DenseHalves(8)
    jax.tree.map(
        np.testing.assert_array_equal, halves.init(jax.random.key(1), x), params
    )
    result = jnp.concatenate(halves.apply(params, x), axis=-1)
    np.testing.assert_allclose(result, whole.apply(params, x), rtol=1e-6, atol=1e-6)


def test_the_gate_comes_second_and_bfloat16_stays():
    x = jax.random.normal(jax.random.key(0), (2, 5, 3))
    mlp = GatedMLP()
    params = mlp.init(jax.random.key(1), x, False)
    first, last = (
        jax.tree.map(np.asarray, params["params"][name]) for name in ("in", "out")
    )
    value, gate = np.split(np.asarray(x) @ first["kernel"] + first["bias"], 2, -1)
    y = value * np.asarray(jax.nn.gelu(gate, approximate=False))
    expected = y @ last["kernel"] + last["bias"]
    np.testing.assert_allclose(mlp.apply(params, x, False), expected, atol=1e-6)
    assert mlp.apply(params, x.astype(jnp.bfloat16), False).dtype == jnp.bfloat16


def test_one_token_of_context_is_that_token_repeated():
    """Values and gradients; q and k, which cannot matter, are there and stay."""
    x = jax.random.normal(jax.random.key(0), (2, 6, 8))
    token = jax.random.normal(jax.random.key(1), (2, 1, 5))
    attention = Attention(num_heads=2, head_channels=4)
    params = attention.init(jax.random.key(2), x, token)
    assert set(params["params"]) == {"q", "k", "v", "out"}

    def weighted(params, x, context):
        y = attention.apply(params, x, context)
        return (y * jnp.arange(y.size).reshape(y.shape)).sum(), y

    def differentiate(context):
        gradient = jax.grad(weighted, argnums=(0, 1, 2), has_aux=True)
        (of_params, of_x, of_context), y = gradient(params, x, context)
        return y, of_params, of_x, of_context.sum(1)

    once = differentiate(token)
    twice = differentiate(jnp.repeat(token, 2, axis=1))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-3), once, twice
    )
    for name in ("q", "k"):
        assert not np.any(once[1]["params"][name]["kernel"])


def test_a_context_of_another_batch_is_refused(unchecked_shapes):
    """Also for one token, whose attention is not computed."""
    x, attention = jnp.ones((2, 6, 8)), Attention(num_heads=2, head_channels=4)
    with pytest.raises(ValueError, match=r"attend needs q \[B, N, heads, d\]"):
        attention.init(jax.random.key(0), x, jnp.ones((1, 1, 5)))
