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
from jax.sharding import PartitionSpec

from ldm_jax.models.attention.packed import (
    LANES,
    MAX_TOKENS,
    TOKEN_MULTIPLE,
    WIDTHS,
    can_pack,
    packed_attention,
)
from ldm_jax.models.attention.plain import read, read_on_cpu
from ldm_jax.models.attention.splash import pad_axis, splash_on_device
from ldm_jax.models.placement import rows_over
from ldm_jax.types import TENSOR_AXIS, Array

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
    text is 77) is left to XLA, which fuses it.
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
    if traced_for() == "cpu" and not is_causal:
        out = read_on_cpu(query, key, value)
    else:
        out = read(query, key, value, is_causal)
    return out.transpose(0, 2, 1, 3)


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
            f"and multiples of {TOKEN_MULTIPLE} tokens up to {MAX_TOKENS}: got "
            f'{q.dtype}, q {q.shape}, k {k.shape}; use backend "auto".'
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


PALLAS = {"packed": attend_packed, "splash": attend_splash}
BACKENDS = {"xla": attend_xla, "cudnn": attend_cudnn, **PALLAS}
