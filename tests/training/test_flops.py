# SPDX-License-Identifier: Apache-2.0
"""Operations counted in traced programs, against closed forms."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from ldm_jax.training.flops import count_flops

A, B = jnp.zeros((4, 8)), jnp.zeros((8, 16))
DOT = 2 * 4 * 8 * 16


def convolve(x, kernel, stride=1):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def repeat(n):
    def body(carry, _):
        return carry, A @ B

    return lambda: lax.scan(body, 0.0, None, length=n)


@pytest.mark.parametrize(
    ("function", "flops"),
    [
        (lambda: A @ B, DOT),
        (lambda: jnp.einsum("bnd,bmd->bnm", A[None], A[None]), 2 * 4 * 8 * 4),
        (jax.jit(lambda: A @ B), DOT),
        (repeat(5), 5 * DOT),
        (
            lambda: lax.cond(A[0, 0] > 0, lambda: A @ B, lambda: 0 * A @ B + A @ B),
            2 * DOT,
        ),
        (lambda: jnp.tanh(A), 0),
    ],
    ids=["dot", "batched", "jit", "scan", "cond", "elementwise"],
)
def test_products_are_counted_where_they_stand(function, flops):
    """Oracle: two operations for every multiply-add, as often as it runs."""
    assert count_flops(function) == flops


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_and_both_its_gradients_cost_the_same(stride):
    """Oracle: 2 * 9 * in * out for each output position, three times."""
    x, kernel = jnp.zeros((2, 8, 8, 4)), jnp.zeros((3, 3, 4, 6))
    once = 2 * 9 * 4 * 6 * 2 * (8 // stride) ** 2
    assert count_flops(lambda x, k: convolve(x, k, stride), x, kernel) == once
    gradient = jax.grad(lambda x, k: convolve(x, k, stride).sum(), argnums=(0, 1))
    # The gradients; the result itself, of which only the sum was asked, is not needed
    # but is part of the traced program.
    assert count_flops(gradient, x, kernel) == pytest.approx(3 * once, rel=0.15)


def loss(w, x):
    return jnp.sum(jnp.tanh(jnp.tanh(x @ w) @ w.T))


def test_what_is_computed_again_is_not_the_models_work():
    """Oracle: forward two products; backward two for w, one for the activation."""
    assert count_flops(jax.grad(loss), B, A) == 5 * DOT
    assert count_flops(jax.grad(jax.checkpoint(loss)), B, A) == 5 * DOT
