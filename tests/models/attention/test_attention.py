# SPDX-License-Identifier: Apache-2.0
"""Attention: the formula itself as oracle, and every backend against it."""

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from ldm_jax.models.attention import attention, trial
from tests.models.attention.oracles import draw, formula


@pytest.mark.parametrize(("tokens", "context"), [(12, 12), (12, 5), (7, 1)])
def test_attend_is_the_softmax_formula(tokens, context):
    """Oracle: NumPy in float64."""
    q, k, v = draw(tokens, context)
    out = attention.attend(q, k, v)
    # float32 sums of at most 16 products.
    np.testing.assert_allclose(out, formula(q, k, v), atol=2e-6)


def test_bfloat16_inputs_keep_their_dtype_and_float32_softmax():
    q, k, v = draw(12, 12, dtype=jnp.bfloat16)
    out = attention.attend(q, k, v)
    assert out.dtype == jnp.bfloat16
    # bfloat16 has 8 bits of mantissa: 2^-8 relative for weights and for the result.
    np.testing.assert_allclose(
        np.asarray(out, np.float32), formula(q, k, v), atol=1.5e-2
    )


@pytest.mark.parametrize(
    ("kernel", "dtype", "error"),
    [("splash", np.float32, 5e-6), ("packed", jnp.bfloat16, 1.5e-2)],
)
@pytest.mark.parametrize("batch", [4, 3])
def test_pallas_kernels_are_divided_over_the_mesh_they_run_under(
    batch, kernel, dtype, error
):
    """Oracle: the XLA backend. 3 rows do not divide, so every device has them all."""
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3)
    one = draw(128, 64, dtype=dtype)
    q, k, v = (jnp.tile(x[:1], (batch, 1, 1, 1)) for x in one)
    rows = ("data", "fsdp") if batch == 4 else None
    assert attention.rows_and_heads(mesh, q.shape) == P(rows, None, "tensor", None)
    if batch == 4:
        sharding = NamedSharding(mesh, P(rows))
        q, k, v = (jax.device_put(x, sharding) for x in (q, k, v))
    run = jax.jit(lambda *x: attention.PALLAS[kernel](*x, interpret=True))
    with jax.set_mesh(mesh):
        out = run(q, k, v)
    expected = attention.attend_xla(q, k, v)
    np.testing.assert_allclose(
        out.astype(jnp.float32), expected.astype(jnp.float32), atol=error
    )


@pytest.mark.accelerator
def test_cudnn_agrees_with_xla_on_an_odd_head_width():
    """Oracle: the XLA backend; heads of 20 are padded to 24."""
    q, k, v = draw(64, 77, width=20, dtype=jnp.bfloat16)
    out = attention.attend(q, k, v, "cudnn").astype(jnp.float32)
    np.testing.assert_allclose(out, formula(q, k, v), atol=1.5e-2)


def test_auto_picks_the_kernel_of_the_platform():
    long, short, heads = (1, 1024, 4, 32), (1, 1, 4, 32), (1, 1024, 1, 512)
    choose = attention.choose_backend
    assert choose(long, long, jnp.bfloat16, "gpu") == "cudnn"
    assert choose(long, long, jnp.float32, "gpu") == "xla"
    assert choose(heads, heads, jnp.bfloat16, "gpu") == "xla"
    assert choose(long, short, jnp.bfloat16, "gpu") == "xla"
    assert choose(long, long, jnp.bfloat16, "tpu") == "packed"
    assert choose(long, long, jnp.float32, "tpu") == "splash"
    assert choose(heads, heads, jnp.bfloat16, "tpu") == "splash"
    longer = (1, 4096, 4, 32)
    assert choose(longer, longer, jnp.bfloat16, "tpu") == "splash"
    assert choose(long, short, jnp.bfloat16, "tpu") == "xla"
    assert choose(long, long, jnp.float32, "cpu") == "xla"


def test_bad_calls_are_refused_with_the_way_out(unchecked_shapes):
    q, k, v = draw(4, 4)
    with pytest.raises(ValueError, match="one of: auto, cudnn, packed, splash, xla"):
        attention.attend(q, k, v, "flash")
    with pytest.raises(ValueError, match="set dtype to bfloat16"):
        attention.attend(q, k, v, "cudnn")
    with pytest.raises(
        ValueError, match="multiples of 64 tokens up to 1024: got float"
    ):
        attention.attend(q, k, v, "packed")
    with pytest.raises(ValueError, match=r"k, v \[B, M, heads, d\]"):
        attention.attend(q, k[:, :, :1], v)


def attend_any(*arrays):
    """Calls `attend` with the NumPy arrays that `check_grads` makes."""
    return attention.attend(*map(jnp.asarray, arrays))


def test_gradients_flow_to_queries_keys_and_values():
    """Oracle: finite differences."""
    q, k, v = draw(3, 4, heads=1, width=4)
    loss = lambda *x: jnp.sum(attend_any(*x) ** 2)  # noqa: E731
    jax.test_util.check_grads(loss, (q, k, v), order=1, modes=["rev"], rtol=2e-2)


def test_portable_attention_has_derivatives_by_forward_mode():
    """Oracle: finite differences."""
    q, k, v = draw(3, 4, heads=1, width=4)
    with attention.portable():
        jax.test_util.check_grads(
            attend_any, (q, k, v), order=1, modes=["fwd"], rtol=2e-2
        )


def test_portable_programs_use_no_kernel_of_this_machine(monkeypatch):
    """Identity: on a TPU, "auto" would take splash, which nothing else can run.

    On many devices it does so only where a mesh says how to divide the work.
    """
    q, k, v = draw(256, 256, heads=1)
    expected = attention.attend_xla(q, k, v)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    monkeypatch.setattr(trial, "works", lambda *args: True)  # as on a TPU
    monkeypatch.delitem(attention.BACKENDS, "splash")
    with jax.set_mesh(jax.make_mesh((8,), ("data",), (AxisType.Auto,))):
        with pytest.raises(ValueError, match="splash"):
            attention.attend(q, k, v)
        with attention.portable():
            np.testing.assert_array_equal(attention.attend(q, k, v), expected)
    np.testing.assert_array_equal(attention.attend(q, k, v), expected)
