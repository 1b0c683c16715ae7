# SPDX-License-Identifier: Apache-2.0
"""Random queries, keys and values, and attention in float64."""

import jax.numpy as jnp
import numpy as np


def draw(tokens, context, heads=2, width=16, dtype=np.float32):
    rng = np.random.default_rng(0)
    shapes = [(2, n, heads, width) for n in (tokens, context, context)]
    return [jnp.asarray(rng.standard_normal(s), dtype) for s in shapes]


def formula(q, k, v):
    """float64 softmax attention, written with loops over samples and heads."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros(q.shape)
    for b in range(q.shape[0]):
        for h in range(q.shape[2]):
            logits = q[b, :, h] @ k[b, :, h].T / np.sqrt(q.shape[3])
            weights = np.exp(logits - logits.max(1, keepdims=True))
            out[b, :, h] = weights / weights.sum(1, keepdims=True) @ v[b, :, h]
    return out
