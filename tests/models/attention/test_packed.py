# SPDX-License-Identifier: Apache-2.0
"""Our TPU kernel, interpreted on a CPU, against XLA; and compiled for TPUs."""

import functools

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from ldm_jax.models.attention import attention
from ldm_jax.parallel.compile import MATMUL_PRECISIONS
from ldm_jax.planning import topologies
from tests.models.attention.oracles import draw, formula


@pytest.mark.parametrize(
    ("tokens", "context", "heads", "width"),
    [(64, 128, 4, 32), (576, 64, 3, 16), (128, 64, 3, 64), (64, 64, 1, 128)],
)
def test_packed_kernel_agrees_with_xla(tokens, context, heads, width):
    """Oracle: the XLA backend, values and gradients, in float32.

    576 tokens are two parts; 3 heads of 16 or 64 leave a block of channels half empty,
    which the interpreter fills with NaN.
    """
    q, k, v = draw(tokens, context, heads, width)
    packed = functools.partial(attention.packed_on_device, interpret=True)
    weight = np.random.default_rng(1).standard_normal(q.shape).astype(np.float32)

    def differentiate(attend):
        def loss(*x):
            y = attend(*x)
            return jnp.sum(y * weight), y

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)

    for actual, expected in zip(
        jax.tree.leaves(differentiate(packed)),
        jax.tree.leaves(differentiate(attention.attend_xla)),
        strict=True,
    ):
        np.testing.assert_allclose(actual, expected, atol=5e-6)


def test_packed_kernel_in_bfloat16_is_near_the_formula():
    q, k, v = draw(64, 64, heads=4, width=32, dtype=jnp.bfloat16)
    out = attention.attend_packed(q, k, v, interpret=True)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        np.asarray(out, np.float32), formula(q, k, v), atol=1.5e-2
    )


@pytest.mark.parametrize("precision", MATMUL_PRECISIONS)
@pytest.mark.parametrize(
    ("tokens", "context", "heads", "width"), [(576, 192, 15, 64), (64, 64, 1, 16)]
)
def test_packed_kernel_is_lowered_for_tpus_at_every_precision(
    tokens, context, heads, width, precision
):
    q, k, v = draw(tokens, context, heads, width, jnp.bfloat16)

    def differentiate(q, k, v):
        out, pull_back = jax.vjp(attention.attend_packed, q, k, v)
        return out, pull_back(out)

    with jax.default_matmul_precision(precision or None):
        traced = jax.jit(differentiate).trace(q, k, v)
        text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("tpu_custom_call") == 2


@pytest.mark.parametrize("topology", ["v5e:1x1", "v5p:2x2x1"])
@pytest.mark.parametrize(
    ("tokens", "heads", "width"), [(1024, 14, 32), (1024, 9, 16), (64, 3, 128)]
)
def test_packed_kernel_compiles_for_tpus(topology, tokens, heads, width):
    """Needs libtpu (extra: tpu): its largest logits fit into vector memory."""
    pytest.importorskip("libtpu")
    device = topologies.describe_topology(topology, 1)[0]
    place = SingleDeviceSharding(device)
    shape = (2, tokens, heads, width)
    x = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place)

    def differentiate(q, k, v, dout):
        out, pull_back = jax.vjp(attention.attend_packed, q, k, v)
        return out, pull_back(dout)

    compiled = jax.jit(differentiate).lower(x, x, x, x).compile()
    assert compiled.as_text().count("tpu_custom_call") == 2
