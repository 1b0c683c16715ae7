# SPDX-License-Identifier: Apache-2.0
"""Encoder and decoder: attention, tanh and rematerialisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.first_stage.coders import Level, LinearAttention
from tests.models.first_stage.tiny import TINY, init


def test_linear_attention_equals_its_formula():
    """Oracle: out = q (softmax over positions of k)^T v, no norm, no residual."""
    model = Autoencoder(attn_type="linear", attention_levels=(1,), **TINY)
    variables, image = init(model)
    block = variables["params"]["encoder"]["down_1"]["attn_0"]
    assert {"q", "k", "v", "out"} == set(block) and "bias" not in block["q"]
    x = jax.random.normal(jax.random.key(2), (1, 3, 4, 32))
    out = LinearAttention().apply({"params": block}, x)
    q, k, v = (
        np.asarray(x.reshape(12, 32) @ block[n]["kernel"], np.float64) for n in "qkv"
    )
    weights = np.exp(k) / np.exp(k).sum(0, keepdims=True)
    expected = q @ (weights.T @ v) @ np.asarray(block["out"]["kernel"])
    expected = expected + np.asarray(block["out"]["bias"])[None]
    np.testing.assert_allclose(out.reshape(12, 32), expected, atol=1e-5)
    assert model.apply(variables, image).image.shape == image.shape


def test_tanh_out_bounds_the_image():
    model = Autoencoder(tanh_out=True, **TINY)
    variables, image = init(model)
    inner = Autoencoder(**TINY).apply(variables, image).image
    np.testing.assert_allclose(model.apply(variables, image).image, jnp.tanh(inner))


@pytest.mark.parametrize("remat", ["full", "convs"])
def test_rematerialization_changes_neither_names_nor_gradients(remat):
    """Identity, on one level with attention and dropout."""
    plain = Level(
        attn_type="vanilla",
        dropout=0.1,
        num_groups=32,
        dtype=None,
        remat="none",
        features=32,
        num_blocks=1,
        has_attention=True,
        resample="down",
    )
    model = plain.clone(remat=remat)
    variables, image = init(plain, (1, 4, 4, 32))

    def loss(params, m):
        rngs = {"dropout": jax.random.key(3)}
        return m.apply(params, image, is_training=True, rngs=rngs).sum()

    jax.tree.map(
        lambda actual, expected: np.testing.assert_allclose(
            actual, expected, 1e-4, 1e-4
        ),
        jax.grad(loss)(variables, model),
        jax.grad(loss)(variables, plain),
    )
