# SPDX-License-Identifier: Apache-2.0
"""Attention: the formula itself as oracle, and every backend against it."""

import functools

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel
from jax.sharding import AxisType, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from ldm_jax.models.attention import attention, plain, splash
from ldm_jax.parallel.compile import MATMUL_PRECISIONS
from ldm_jax.planning import topologies


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
    ("tokens", "context", "width"), [(128, 77, 16), (200, 256, 16), (128, 77, 160)]
)
def test_splash_kernel_agrees_with_xla_on_padded_tokens(tokens, context, width):
    """Oracle: the XLA backend; the Pallas kernel runs interpreted on the CPU."""
    q, k, v = draw(tokens, context, heads=1, width=width)
    out = attention.attend_splash(q, k, v, interpret=True)
    np.testing.assert_allclose(out, attention.attend_xla(q, k, v), atol=5e-6)


@pytest.mark.parametrize(("context", "tiles"), [(77, 1), (384, 3)])
def test_gradients_of_splash_agree_with_xla(context, tiles):
    """Oracle: the XLA backend. dq has a kernel of its own for keys in several tiles."""
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
    for ours, theirs in zip(
        gradients(on_splash), gradients(attention.attend_xla), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


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

    for ours, theirs in zip(
        jax.tree.leaves(differentiate(packed)),
        jax.tree.leaves(differentiate(attention.attend_xla)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, atol=5e-6)


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


def test_bad_calls_are_told_the_way_out():
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


def test_gradients_flow_to_queries_keys_and_values():
    """Oracle: finite differences."""
    q, k, v = draw(3, 4, heads=1, width=4)
    loss = lambda *x: jnp.sum(attention.attend(*x) ** 2)  # noqa: E731
    jax.test_util.check_grads(loss, (q, k, v), order=1, modes=["rev"], rtol=2e-2)


@pytest.mark.parametrize(("tokens", "context"), [(12, 5), (512, 512)])
def test_gradients_on_cpus_are_those_of_the_formula(tokens, context, monkeypatch):
    """Oracle: JAX's own derivative, which other devices take; 512 go head by head."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert (tokens * context >= plain.LARGE_TABLE) == (tokens == 512)
    q, k, v = draw(tokens, context, width=4)

    def differentiate():
        out, pull_back = jax.vjp(attention.attend_xla, q, k, v)
        return out, *pull_back(jnp.cos(out))

    ours = differentiate()
    with attention.portable():
        theirs = differentiate()
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=5e-6)


def test_portable_attention_has_derivatives_by_forward_mode():
    """Oracle: finite differences."""
    q, k, v = draw(3, 4, heads=1, width=4)
    with attention.portable():
        jax.test_util.check_grads(
            attention.attend, (q, k, v), order=1, modes=["fwd"], rtol=2e-2
        )


def test_portable_programs_use_no_kernel_of_this_machine(monkeypatch):
    """Identity: on a TPU, "auto" would take splash, which nothing else can run.

    On many devices it does so only where a mesh says how to divide the work.
    """
    q, k, v = draw(256, 256, heads=1)
    expected = attention.attend_xla(q, k, v)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    monkeypatch.delitem(attention.BACKENDS, "splash")
    with jax.set_mesh(jax.make_mesh((8,), ("data",), (AxisType.Auto,))):
        with pytest.raises(ValueError, match="splash"):
            attention.attend(q, k, v)
        with attention.portable():
            np.testing.assert_array_equal(attention.attend(q, k, v), expected)
    np.testing.assert_array_equal(attention.attend(q, k, v), expected)


def test_causal_attention_is_attention_to_each_prefix():
    """Oracle: query n attends to keys 0..n alone."""
    q, k, v = draw(4, 4)
    out = attention.attend(q, k, v, is_causal=True)
    for n in range(4):
        prefix = attention.attend(q[:, n : n + 1], k[:, : n + 1], v[:, : n + 1])
        np.testing.assert_allclose(out[:, n : n + 1], prefix, atol=2e-6)
    with pytest.raises(ValueError, match='"xla" only'):
        attention.attend(q, k, v, "splash", is_causal=True)
