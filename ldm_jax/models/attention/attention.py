# SPDX-License-Identifier: Apache-2.0
"""Scaled dot-product attention: chooses a kernel and runs it.

Self- and cross-attention of every network call `attend`. Backends agree to within the
rounding of the inputs' dtype; logits and softmax are float32 in all of them.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, PartitionSpec
from jaxtyping import Float

from ldm_jax.models.attention import trial
from ldm_jax.models.attention.packed import (
    LANES,
    MAX_TOKENS,
    TOKEN_MULTIPLE,
    WIDTHS,
    can_pack,
    packed_attention,
)
from ldm_jax.models.attention.plain import softmax_attention, softmax_attention_on_cpu
from ldm_jax.models.attention.splash import pad_axis, splash_on_device
from ldm_jax.models.placement import rows_over
from ldm_jax.types import TENSOR_AXIS, Array, DType, Size

# Widest head of cuDNN's flash kernel on compute capability 9.0 and later.
CUDNN_MAX_WIDTH = 128

_is_portable = contextvars.ContextVar("is_portable", default=False)
_platform = contextvars.ContextVar[str | None]("platform", default=None)


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """Traces code for any device while the context is open: `attend` uses "xla".

    For programs that are traced here and run elsewhere (`jax.export`).
    """
    token = _is_portable.set(True)
    try:
        yield
    finally:
        _is_portable.reset(token)


@contextlib.contextmanager
def planned_for(platform: str) -> Iterator[None]:
    """Traces code as for a platform without hardware while the context is open."""
    token = _platform.set(platform)
    try:
        yield
    finally:
        _platform.reset(token)


def traced_for() -> str:
    """Returns the platform a program is being traced for; "any" in `portable`."""
    return "any" if _is_portable.get() else _platform.get() or jax.default_backend()


def attend(
    q: Float[Array, "B N heads d"],
    k: Float[Array, "B M heads d"],
    v: Float[Array, "B M heads d"],
    backend: str = "auto",
    is_causal: bool = False,
) -> Float[Array, "B N heads d"]:
    """Computes attention of queries to keys and values, for each head.

        softmax(q k^T / sqrt(d)) v

    Args:
      q: queries.
      k: keys.
      v: values.
      backend: "xla"; "cudnn", flash attention of cuDNN (GPU, bfloat16 or float16);
        "packed", this package's kernel for narrow heads in bfloat16 on TPUs; "splash",
        JAX's kernel for TPUs; or "auto", which chooses by device, dtype and shape
        among the kernels that pass a test on this device (`trial`).
      is_causal: whether query n attends to keys 0..n only ("xla").

    Returns:
      Dtype of `q`. Kernels, and "xla" on CPUs, have derivatives by reverse mode only;
      in `portable` there is `jax.jvp` too.

    Raises:
      ValueError: the shapes do not fit together, the backend is unknown, or it cannot
        take this dtype or width.

    Source: Vaswani et al. 2017, Eq. 1.
    """
    check_qkv(q, k, v)
    if is_causal:
        if backend not in ("auto", "xla"):
            raise ValueError(
                f'causal attention runs on backend "xla" only: got "{backend}"; use '
                '"auto" or "xla".'
            )
        return attend_xla(q, k, v, is_causal=True)
    if _is_portable.get():
        backend = "xla"
    if backend == "auto":
        works = functools.partial(_works_here, width=q.shape[-1], dtype=q.dtype)
        backend = choose_backend(q.shape, k.shape, q.dtype, traced_for(), works)
        if backend in PALLAS and jax.device_count() > 1 and not mesh_is_set():
            backend = "xla"  # a kernel cannot be divided among devices without a mesh
    if backend not in BACKENDS:
        raise ValueError(
            f'unknown attention backend "{backend}"; one of: auto, '
            f"{', '.join(sorted(BACKENDS))}."
        )
    return BACKENDS[backend](q, k, v)


def check_qkv(q: Array, k: Array, v: Array) -> None:
    """Raises ValueError unless q, k, v are [B, N or M, heads, d] of one B, heads, d."""
    same = q.ndim == 4 and k.shape == v.shape and k.ndim == 4
    if not same or (q.shape[0], *q.shape[2:]) != (k.shape[0], *k.shape[2:]):
        raise ValueError(
            "attend needs q [B, N, heads, d] and k, v [B, M, heads, d]: got "
            f"q {q.shape}, k {k.shape}, v {v.shape}."
        )


def choose_backend(
    q_shape: tuple[Size, ...],
    k_shape: tuple[Size, ...],
    dtype: DType,
    platform: str,
    works: Callable[[str], bool] = lambda backend: True,
) -> str:
    """Returns the fastest backend for shapes, a dtype and a platform.

    Flash kernels are faster when the table of logits is large; for a context of a few
    tokens (a text has 77) XLA is, which fuses the operations.

    Args:
      q_shape, k_shape: [B, N or M, heads, d].
      dtype: of both.
      platform: "cpu", "gpu" or "tpu".
      works: (backend) -> whether it may be chosen.
    """
    half = dtype in (jnp.bfloat16, jnp.float16)
    tokens, context, width = q_shape[1], k_shape[1], q_shape[3]
    suits = {
        "cudnn": platform == "gpu"
        and half
        and width <= CUDNN_MAX_WIDTH
        and context > 8,
        "packed": platform == "tpu" and can_pack(q_shape, k_shape, dtype),
        "splash": platform == "tpu" and tokens >= 2 * LANES and context >= LANES,
    }
    return next((name for name in suits if suits[name] and works(name)), "xla")


def _works_here(backend: str, width: int, dtype: DType) -> bool:
    """Returns whether a kernel passes its trial on this device, see `trial.works`."""
    if _platform.get() is not None:
        return True  # planned for devices that are absent
    on_device = {
        "cudnn": attend_cudnn,
        "packed": functools.partial(packed_on_device, interpret=False),
        "splash": functools.partial(splash_on_device, interpret=False),
    }
    return trial.works(backend, on_device[backend], width, dtype)


def attend_xla(
    q: Float[Array, "B N heads d"],
    k: Float[Array, "B M heads d"],
    v: Float[Array, "B M heads d"],
    is_causal: bool = False,
) -> Float[Array, "B N heads d"]:
    """Computes attention with all logits in memory, for any device and shape."""
    # Heads next to the batch before the products: on XLA:CPU up to 2.5x faster forward
    # than contracting [B, N, heads, d] directly (1024 tokens, 4 heads x 32).
    query, key, value = (x.transpose(0, 2, 1, 3) for x in (q, k, v))  # [B, heads, ., d]
    query = query * q.shape[-1] ** -0.5  # [B, heads, N, d]
    if traced_for() == "cpu" and not is_causal:
        out = softmax_attention_on_cpu(query, key, value)  # [B, heads, N, d]
    else:
        out = softmax_attention(query, key, value, is_causal)
    return out.transpose(0, 2, 1, 3)  # [B, N, heads, d]


def attend_cudnn(
    q: Float[Array, "B N heads d"],
    k: Float[Array, "B M heads d"],
    v: Float[Array, "B M heads d"],
) -> Float[Array, "B N heads d"]:
    """Computes attention with cuDNN; heads are padded to a multiple of 8 channels.

    Raises:
      ValueError: a dtype or a width of heads that the kernel does not have.
    """
    width = q.shape[-1]
    if q.dtype not in (jnp.bfloat16, jnp.float16) or width > CUDNN_MAX_WIDTH:
        raise ValueError(
            'attention backend "cudnn" takes bfloat16 or float16 heads up to '
            f"{CUDNN_MAX_WIDTH} wide: got {q.dtype} and {width}; set dtype to "
            'bfloat16, use narrower heads, or backend "xla".'
        )
    query, key, value = (pad_axis(x, -1, 8) for x in (q, k, v))  # [..., heads, padded]
    out = jax.nn.dot_product_attention(
        query, key, value, scale=width**-0.5, implementation="cudnn"
    )
    return out[..., :width]  # [B, N, heads, d]


def attend_packed(
    q: Float[Array, "B N heads d"],
    k: Float[Array, "B M heads d"],
    v: Float[Array, "B M heads d"],
    interpret: bool = False,
) -> Float[Array, "B N heads d"]:
    """Computes attention with our Pallas kernel, see `packed_attention`.

    It is divided over a mesh as `attend_splash` is.

    Raises:
      ValueError: a dtype, width or number of tokens that the kernel does not take.
    """
    if not can_pack(q.shape, k.shape, q.dtype):
        raise ValueError(
            f'attention backend "packed" takes bfloat16 heads of a width of {WIDTHS} '
            f"and multiples of {TOKEN_MULTIPLE} tokens up to {MAX_TOKENS}: got "
            f'{q.dtype}, q {q.shape}, k {k.shape}; use backend "auto".'
        )
    return _on_each_device(packed_on_device, q, k, v, interpret)


def packed_on_device(
    q: Float[Array, "B N heads d"],
    k: Float[Array, "B M heads d"],
    v: Float[Array, "B M heads d"],
    interpret: bool,
) -> Float[Array, "B N heads d"]:
    """Runs the packed kernel on one device."""
    width = q.shape[3]
    query, key, value = (
        x.reshape(*x.shape[:2], -1) for x in (q, k, v)
    )  # [..., heads*d]
    query = query * width**-0.5
    out: Array = packed_attention(query, key, value, width, interpret)  # pyright: ignore[reportAssignmentType]
    return out.reshape(q.shape)


def attend_splash(
    q: Float[Array, "B N heads d"],
    k: Float[Array, "B M heads d"],
    v: Float[Array, "B M heads d"],
    interpret: bool = False,
) -> Float[Array, "B N heads d"]:
    """Computes splash attention (Pallas); each device computes its rows and heads.

    The compiler cannot divide a kernel among devices, so the mesh must be set while the
    program is traced: `with jax.set_mesh(mesh)`. `interpret` runs the kernel without a
    TPU, slowly, for tests.
    """
    return _on_each_device(splash_on_device, q, k, v, interpret)


def _on_each_device(
    kernel: Callable[..., Array], q: Array, k: Array, v: Array, interpret: bool
) -> Array:
    """Divides a kernel over the mesh that is set, by rows and heads."""
    kernel = functools.partial(kernel, interpret=interpret)
    if not mesh_is_set():
        return kernel(q, k, v)
    spec = rows_and_heads(jax.sharding.get_abstract_mesh(), q.shape)
    divided = jax.shard_map(
        kernel, in_specs=(spec,) * 3, out_specs=spec, check_vma=False
    )
    return divided(q, k, v)


def mesh_is_set() -> bool:
    """Returns whether the code is traced under `jax.set_mesh`."""
    return not jax.sharding.get_abstract_mesh().empty


def rows_and_heads(mesh: Mesh | AbstractMesh, shape: tuple[Size, ...]) -> PartitionSpec:
    """Divides [B, N, heads, d] over the axes of a mesh that divide B and the heads."""
    has_heads = shape[2] % mesh.shape.get(TENSOR_AXIS, shape[2] + 1) == 0
    heads = TENSOR_AXIS if has_heads else None
    return PartitionSpec(rows_over(mesh, shape[0]), None, heads, None)


PALLAS = {"packed": attend_packed, "splash": attend_splash}
BACKENDS = {"xla": attend_xla, "cudnn": attend_cudnn, **PALLAS}
