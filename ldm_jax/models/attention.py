# SPDX-License-Identifier: Apache-2.0
"""Scaled dot-product attention, the one place where a kernel is chosen.

Self- and cross-attention of every network call `attend`. Backends agree to within the
rounding of the inputs' dtype; logits and softmax are float32 in all of them.
"""

import contextlib
import contextvars
import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from ldm_jax.models.packed_attention import (
    LANES,
    MAX_TOKENS,
    TOKENS,
    WIDTHS,
    can_pack,
    packed_attention,
)
from ldm_jax.models.placement import rows_over
from ldm_jax.types import TENSOR_AXIS, Array

# Most tokens of a tile of splash attention; for heads wider than the lanes, and their
# most bytes. With more the backward pass needs more than the 16 MiB of vector memory
# that the compiler for v5e grants at its least effort.
SPLASH_TILE = 1024
SPLASH_TILE_OF_WIDE, SPLASH_TILE_BYTES = 512, 512 * 2**10
# The backward pass on one CPU takes heads of so many logits one by one: of 1 MiB and
# more, that the tables stay in the cache.
LARGE_TABLE = 2**18
# Widest head of cuDNN's flash kernel on compute capability 9.0 and later.
CUDNN_MAX_WIDTH = 128

_is_portable = contextvars.ContextVar("is_portable", default=False)
_platform = contextvars.ContextVar("platform", default=None)


@contextlib.contextmanager
def portable():
    """Makes this block trace what suits any device: every `attend` uses "xla".

    For programs that are traced here and run elsewhere (`jax.export`).
    """
    token = _is_portable.set(True)
    try:
        yield
    finally:
        _is_portable.reset(token)


@contextlib.contextmanager
def planned_for(platform: str):
    """Makes this block trace as it would on a platform that is not there."""
    token = _platform.set(platform)
    try:
        yield
    finally:
        _platform.reset(token)


def traced_for() -> str:
    """Names the platform that a program is being traced for; "any" in `portable`."""
    return "any" if _is_portable.get() else _platform.get() or jax.default_backend()


def attend(
    q: Array, k: Array, v: Array, backend: str = "auto", is_causal: bool = False
) -> Array:
    """Lets every query token read the values of all key tokens, head by head.

        softmax(q k^T / sqrt(d)) v

    Args:
      q: [B, N, heads, d] queries.
      k: [B, M, heads, d] keys.
      v: [B, M, heads, d] values.
      backend: "xla"; "cudnn", flash attention of cuDNN (GPU, bfloat16 or float16);
        "packed", our kernel for TPU, of narrow heads in bfloat16; "splash", JAX's for
        TPU; or "auto", which picks by device, dtype and shape.
      is_causal: whether query n sees keys 0..n only ("xla").

    Returns:
      [B, N, heads, d], dtype of `q`. Kernels, and "xla" on CPUs, have derivatives by
      reverse mode alone; in `portable` there is `jax.jvp` too.

    Raises:
      ValueError: the shapes do not fit together, the backend is unknown, or it cannot
        take this dtype or width.

    Source: Vaswani et al. 2017, Eq. 1.
    """
    check_shapes(q, k, v)
    if is_causal:
        if backend not in ("auto", "xla"):
            raise ValueError(
                f'causal attention runs on backend "xla" only: got "{backend}"; the '
                "texts it is for are short."
            )
        return attend_xla(q, k, v, is_causal=True)
    if _is_portable.get():
        backend = "xla"
    if backend == "auto":
        backend = choose_backend(q.shape, k.shape, q.dtype, traced_for())
        if backend in PALLAS and jax.device_count() > 1 and not mesh_is_set():
            backend = "xla"  # the kernel could not be divided among the devices
    if backend not in BACKENDS:
        raise ValueError(
            f'unknown attention backend "{backend}"; one of: auto, '
            f"{', '.join(sorted(BACKENDS))}."
        )
    return BACKENDS[backend](q, k, v)


def check_shapes(q: Array, k: Array, v: Array) -> None:
    """Raises ValueError unless q, k, v are [B, N or M, heads, d] of one B, heads, d."""
    same = q.ndim == 4 and k.shape == v.shape and k.ndim == 4
    if not same or (q.shape[0], *q.shape[2:]) != (k.shape[0], *k.shape[2:]):
        raise ValueError(
            "attend needs q [B, N, heads, d] and k, v [B, M, heads, d]: got "
            f"q {q.shape}, k {k.shape}, v {v.shape}."
        )


def choose_backend(q_shape, k_shape, dtype, platform: str) -> str:
    """Names the backend that is fastest for a shape, a dtype and a platform.

    Flash kernels pay when the table of logits is large; a context of a few tokens (a
    class label is one) is left to XLA, which fuses it.
    """
    half = dtype in (jnp.bfloat16, jnp.float16)
    tokens, context, width = q_shape[1], k_shape[1], q_shape[3]
    if platform == "gpu" and half and width <= CUDNN_MAX_WIDTH and context > 8:
        return "cudnn"
    if platform == "tpu" and can_pack(q_shape, k_shape, dtype):
        return "packed"
    if platform == "tpu" and tokens >= 2 * LANES and context >= LANES:
        return "splash"
    return "xla"


def attend_xla(q: Array, k: Array, v: Array, is_causal: bool = False) -> Array:
    """Writes the table of logits out: any device, any shape."""
    # Heads beside the batch before the products: on XLA:CPU up to 2.5x faster forward
    # than contracting [B, N, heads, d] as it stands (1024 tokens, 4 heads x 32).
    query, key, value = (x.transpose(0, 2, 1, 3) for x in (q, k, v))
    query = query * q.shape[-1] ** -0.5
    on_cpu = traced_for() == "cpu" and not is_causal
    read = _read_on_cpu if on_cpu else functools.partial(_read, is_causal=is_causal)
    return read(query, key, value).transpose(0, 2, 1, 3)


def _read(q: Array, k: Array, v: Array, is_causal: bool = False) -> Array:
    """softmax(q k^T) v of [..., N or M, d]; q is scaled already."""
    logits = _products(q, k)
    if is_causal:
        visible = jnp.tril(jnp.ones(logits.shape[2:], bool))[None, None]
        logits = jnp.where(visible, logits, -jnp.inf)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("...nm,...md->...nd", weights, v)


def _products(a: Array, b: Array) -> Array:
    """[..., N, d], [..., M, d] -> [..., N, M] float32."""
    return jnp.einsum("...nd,...md->...nm", a, b, preferred_element_type=jnp.float32)


@jax.custom_vjp
def _read_on_cpu(q: Array, k: Array, v: Array) -> Array:
    """`_read` with a backward pass that XLA:CPU runs in 0.6 of the time.

    (1024 tokens, 2 heads of 32.) JAX's own divides the whole table of weights, and
    multiplies its transpose.
    """
    return _read(q, k, v)


def _forward_on_cpu(q, k, v):
    out = _read(q, k, v)
    return out, (q, k, v, out)


def _backward_on_cpu(saved, dout):
    *heads, tokens, _ = saved[0].shape
    rows = (*saved, dout)
    is_large = tokens * saved[1].shape[-2] >= LARGE_TABLE
    if not is_large or jax.device_count() > 1:  # a loop would not be divided
        return _gradients(*rows)
    rows = [x.reshape(-1, *x.shape[-2:]) for x in rows]
    gradients = lax.map(lambda one: _gradients(*one), rows)
    return tuple(g.reshape(*heads, *g.shape[-2:]) for g in gradients)


def _gradients(q, k, v, out, dout):
    """Of `_read`, for q, k and v."""
    logits = _products(q, k)
    weights = jnp.exp(logits - logits.max(-1, keepdims=True))
    dout = dout.astype(jnp.float32) / weights.sum(-1, keepdims=True)
    mean = (dout * out).sum(-1, keepdims=True)
    dlogits = weights * (_products(dout, v) - mean)
    dq = jnp.einsum("...nm,...md->...nd", dlogits, k)
    # [d, M] comes first: a product that ends in [M, d] takes five times as long.
    dk, dv = (
        jnp.einsum("...nd,...nm->...dm", *pair).swapaxes(-2, -1)
        for pair in ((q, dlogits), (dout, weights))
    )
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype)


_read_on_cpu.defvjp(_forward_on_cpu, _backward_on_cpu)


def attend_cudnn(q: Array, k: Array, v: Array) -> Array:
    """Flash attention of cuDNN; heads are padded to a width it takes."""
    width = q.shape[-1]
    if q.dtype not in (jnp.bfloat16, jnp.float16) or width > CUDNN_MAX_WIDTH:
        raise ValueError(
            'attention backend "cudnn" takes bfloat16 or float16 heads up to '
            f"{CUDNN_MAX_WIDTH} wide: got {q.dtype} and {width}; set dtype to "
            'bfloat16, use narrower heads, or backend "xla".'
        )
    query, key, value = (pad_axis(x, -1, 8) for x in (q, k, v))
    out = jax.nn.dot_product_attention(
        query, key, value, scale=width**-0.5, implementation="cudnn"
    )
    return out[..., :width]


def attend_packed(q: Array, k: Array, v: Array, interpret: bool = False) -> Array:
    """Our Pallas kernel, see `packed_attention`; divided as `attend_splash` is."""
    if not can_pack(q.shape, k.shape, q.dtype):
        raise ValueError(
            f'attention backend "packed" takes bfloat16 heads of a width of {WIDTHS} '
            f"and multiples of {TOKENS} tokens up to {MAX_TOKENS}: got {q.dtype}, "
            f'q {q.shape}, k {k.shape}; use backend "auto".'
        )
    return _on_each_device(packed_on_device, q, k, v, interpret)


def packed_on_device(q: Array, k: Array, v: Array, interpret: bool) -> Array:
    """Runs the kernel on heads side by side."""
    width = q.shape[3]
    query, key, value = (x.reshape(*x.shape[:2], -1) for x in (q, k, v))
    query = query * width**-0.5
    return packed_attention(query, key, value, width, interpret).reshape(q.shape)


def attend_splash(q: Array, k: Array, v: Array, interpret: bool = False) -> Array:
    """Pallas splash attention, each device on its own rows and heads.

    The compiler cannot divide a kernel among devices, so the mesh has to be known while
    the program is traced: `with jax.set_mesh(mesh)`.

    `interpret` runs the kernel without a TPU, slowly, for tests.
    """
    return _on_each_device(splash_on_device, q, k, v, interpret)


def _on_each_device(kernel, q: Array, k: Array, v: Array, interpret: bool) -> Array:
    kernel = functools.partial(kernel, interpret=interpret)
    if not mesh_is_set():
        return kernel(q, k, v)
    spec = rows_and_heads(jax.sharding.get_abstract_mesh(), q.shape)
    divided = jax.shard_map(
        kernel, in_specs=(spec,) * 3, out_specs=spec, check_vma=False
    )
    return divided(q, k, v)


def mesh_is_set() -> bool:
    """Whether the code is traced under `jax.set_mesh`."""
    return not jax.sharding.get_abstract_mesh().empty


def rows_and_heads(mesh, shape: tuple[int, ...]) -> PartitionSpec:
    """Divides [B, N, heads, d] over a mesh where the axes divide B and the heads."""
    has_heads = shape[2] % mesh.shape.get(TENSOR_AXIS, shape[2] + 1) == 0
    heads = TENSOR_AXIS if has_heads else None
    return PartitionSpec(rows_over(mesh, shape[0]), None, heads, None)


def splash_on_device(q: Array, k: Array, v: Array, interpret: bool) -> Array:
    """Runs the kernel; tokens are padded to whole tiles and masked."""
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as kernel,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_mask as masks,
    )

    tokens, heads, context = q.shape[1], q.shape[2], k.shape[1]
    q = q * q.shape[-1] ** -0.5
    query, key, value = (
        pad_axis(_through_lanes(x), 1, LANES).transpose(0, 2, 1, 3) for x in (q, k, v)
    )
    padded = query.shape[2], key.shape[2]
    mask = masks.MultiHeadMask([masks.FullMask(padded) for _ in range(heads)])
    flash = kernel.make_splash_mha_single_device(
        mask, block_sizes=splash_blocks(kernel, query, key), interpret=interpret
    )
    segments = None
    if padded[1] != context:
        # Padding keys belong to a segment that no query is in.
        segments = kernel.SegmentIds(
            jnp.zeros(padded[0], jnp.int32),
            (jnp.arange(padded[1]) >= context).astype(jnp.int32),
        )
    out = jax.vmap(lambda a, b, c: flash(a, b, c, segment_ids=segments))(
        query, key, value
    )
    return out.transpose(0, 2, 1, 3)[:, :tokens].astype(q.dtype)


def _through_lanes(x: Array) -> Array:
    """Makes the compiler lay [B, N, heads, d] out as [B, N, heads * d] in passing.

    Otherwise the sums and products of the backward pass that surround attention run on
    heads, of which one that is 32 wide fills a quarter of the vector unit.
    """
    flat = jax.lax.optimization_barrier(x.reshape(*x.shape[:2], -1))
    return flat.reshape(x.shape)


def splash_blocks(kernel, query: Array, key: Array):
    """Makes the tiles of the kernel for q and k [B, heads, N or M, d].

    Narrow heads would leave lanes empty: tokens lie along them instead. Where one tile
    has all keys, one kernel makes all gradients; with several it would write a dq for
    each. By the compiler's schedule for v5e self-attention, forward and backward, takes
    5.0 instead of 8.4 ms so (batch 16, 1024 tokens, 14 heads of 32, bfloat16).
    """
    q_block, kv_block = largest_block(query), largest_block(key)
    is_one = key.shape[2] == kv_block
    layouts = kernel.QKVLayout
    is_wide = query.shape[3] > LANES
    layout = layouts.HEAD_DIM_MINOR if is_wide else layouts.SEQ_MINOR
    return kernel.BlockSizes(
        block_q=q_block,
        block_kv=kv_block,
        block_kv_compute=kv_block,
        block_q_dkv=q_block,
        block_kv_dkv=kv_block,
        block_kv_dkv_compute=kv_block,
        block_q_dq=None if is_one else q_block,
        block_kv_dq=None if is_one else kv_block,
        use_fused_bwd_kernel=is_one,
        q_layout=layout,
        k_layout=layout,
        v_layout=layout,
    )


def largest_block(x: Array) -> int:
    """Tokens of a tile: the most of 1024, 512, 256 and 128 that divide them and fit."""
    *_, length, width = x.shape
    if width <= LANES:
        fits = SPLASH_TILE
    else:
        fits = min(SPLASH_TILE_OF_WIDE, SPLASH_TILE_BYTES // (width * x.dtype.itemsize))
    whole = (n for n in (1024, 512, 256) if length % n == 0 and n <= fits)
    return next(whole, LANES)


def pad_axis(x: Array, axis: int, multiple: int) -> Array:
    """Pads an axis with zeros at its end up to a multiple."""
    missing = -x.shape[axis] % multiple
    if not missing:
        return x
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, missing)
    return jnp.pad(x, widths)


PALLAS = {"packed": attend_packed, "splash": attend_splash}
BACKENDS = {"xla": attend_xla, "cudnn": attend_cudnn, **PALLAS}
