# SPDX-License-Identifier: Apache-2.0
"""JAX's TPU kernel, interpreted on a CPU, against XLA; and its tiles."""

import functools

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel

from ldm_jax.models.attention import attention, splash
from tests.models.attention.oracles import draw


@pytest.mark.parametrize(
    ("tokens", "context", "width"), [(128, 77, 16), (200, 256, 16), (128, 77, 160)]
)
def test_splash_kernel_agrees_with_xla_on_padded_tokens(tokens, context, width):
    """Oracle: the XLA backend; the Pallas kernel runs interpreted on the CPU."""
    q, k, v = draw(tokens, context, heads=1, width=width)
    out = attention.attend_splash(q, k, v, interpret=True)
    np.testing.assert_allclose(out, attention.attend_xla(q, k, v), atol=5e-6)


@pytest.mark.parametrize(("context", "tiles"), [(77, 1), (384, 3)])
def test_gradients_of_splash_agree_with_xla(context, tiles):
    """Oracle: the XLA backend. dq has a separate kernel for keys in several tiles."""
    q, k, v = draw(200, context)
    padded = jax.ShapeDtypeStruct((2, 2, 128 * tiles, 16), jnp.float32)
    blocks = splash.splash_blocks(splash_attention_kernel, padded, padded)
    assert blocks.has_backward_blocks
    assert blocks.use_fused_bwd_kernel == (tiles == 1)
    assert blocks.q_layout == splash_attention_kernel.QKVLayout.SEQ_MINOR

    def gradients(attend):
        def loss(*x):
            return jnp.sum(jnp.sin(attend(*x)))

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(q, k, v)

    on_splash = functools.partial(attention.attend_splash, interpret=True)
    for actual, expected in zip(
        gradients(on_splash), gradients(attention.attend_xla), strict=True
    ):
        np.testing.assert_allclose(actual, expected, atol=2e-5)


@pytest.mark.parametrize(
    ("shape", "dtype", "block"),
    [
        ((2, 8, 4096, 64), jnp.float32, 1024),
        ((2, 8, 1536, 64), jnp.float32, 512),
        ((2, 1, 1024, 160), jnp.bfloat16, 512),
        ((2, 1, 1024, 512), jnp.bfloat16, 512),
        ((2, 1, 1024, 512), jnp.float32, 256),
        ((2, 1, 1024, 1024), jnp.float32, 128),
        ((2, 1, 384, 64), jnp.float32, 128),
    ],
)
def test_tiles_of_splash_divide_the_tokens_and_fit_into_vector_memory(
    shape, dtype, block
):
    """Closed form; where width cuts the tokens, twice as many are refused by the
    compiler for v5e at its least effort (16.06 MiB of 16 for 512 of 512, float32)."""
    assert splash.largest_block(jax.ShapeDtypeStruct(shape, dtype)) == block
