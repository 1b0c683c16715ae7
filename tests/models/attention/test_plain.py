# SPDX-License-Identifier: Apache-2.0
"""Attention that computes all logits, and its gradients on CPUs."""

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

from ldm_jax.models.attention import attention, plain
from tests.models.attention.oracles import draw


@pytest.mark.parametrize(("tokens", "context"), [(12, 5), (512, 512)])
def test_gradients_on_cpus_are_those_of_the_formula(tokens, context, monkeypatch):
    """Oracle: JAX's own derivative, which other devices take; 512 go head by head."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert (tokens * context >= plain.LARGE_TABLE) == (tokens == 512)
    q, k, v = draw(tokens, context, width=4)

    def differentiate():
        out, pull_back = jax.vjp(attention.attend_xla, q, k, v)
        return out, *pull_back(jnp.cos(out))

    actual = differentiate()
    with attention.portable():
        expected = differentiate()
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=5e-6)


def test_causal_attention_is_attention_to_each_prefix():
    """Oracle: query n attends to keys 0..n alone."""
    q, k, v = draw(4, 4)
    out = attention.attend(q, k, v, is_causal=True)
    for n in range(4):
        prefix = attention.attend(q[:, n : n + 1], k[:, : n + 1], v[:, : n + 1])
        np.testing.assert_allclose(out[:, n : n + 1], prefix, atol=2e-6)
    with pytest.raises(ValueError, match='"xla" only'):
        attention.attend(q, k, v, "splash", is_causal=True)
