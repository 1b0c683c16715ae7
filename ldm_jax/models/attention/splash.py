# SPDX-License-Identifier: Apache-2.0
"""Runs JAX's splash attention for TPUs with padding and tiles for latent grids."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Shaped

from ldm_jax.models.attention.packed import LANES
from ldm_jax.types import Array

# Largest number of tokens in a tile; and, for heads wider than the lanes, of tokens and
# bytes. With more, the backward pass needs more than the 16 MiB of vector memory that
# the compiler for v5e grants at its lowest optimisation effort.
SPLASH_TILE = 1024
SPLASH_TILE_OF_WIDE, SPLASH_TILE_BYTES = 512, 512 * 2**10

AnyShape = Array | jax.ShapeDtypeStruct  # only the shape and dtype are read


def splash_on_device(
    q: Float[Array, "B N heads d"],
    k: Float[Array, "B M heads d"],
    v: Float[Array, "B M heads d"],
    interpret: bool,
) -> Float[Array, "B N heads d"]:
    """Runs the kernel on one device; tokens are padded to whole tiles and masked."""
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
    )  # [B, heads, padded N or M, d]
    padded = query.shape[2], key.shape[2]
    mask = masks.MultiHeadMask([masks.FullMask(padded) for _ in range(heads)])
    flash = kernel.make_splash_mha_single_device(
        mask, block_sizes=splash_blocks(kernel, query, key), interpret=interpret
    )
    segments = None
    if padded[1] != context:
        # Keys of the padding are in a segment without queries.
        segments = kernel.SegmentIds(
            jnp.zeros(padded[0], jnp.int32),
            (jnp.arange(padded[1]) >= context).astype(jnp.int32),
        )
    out = jax.vmap(lambda a, b, c: flash(a, b, c, segment_ids=segments))(
        query, key, value
    )
    return out.transpose(0, 2, 1, 3)[:, :tokens].astype(q.dtype)  # pyright: ignore[reportAttributeAccessIssue]


def _through_lanes(x: Array) -> Array:
    """Makes the compiler store [B, N, heads, d] as [B, N, heads * d] for a moment.

    Otherwise the operations around attention in the backward pass use the layout of
    heads, of which one of 32 channels fills a quarter of the vector unit.
    """
    flat = jax.lax.optimization_barrier(x.reshape(*x.shape[:2], -1))
    return flat.reshape(x.shape)


def splash_blocks(
    kernel: Any,
    query: Shaped[AnyShape, "B heads N d"],
    key: Shaped[AnyShape, "B heads M d"],
) -> Any:
    """Chooses the kernel's tile sizes and layouts.

    Narrow heads would leave lanes empty, so tokens are put along the lanes instead. If
    one tile holds all keys, one kernel computes all gradients; with several tiles it
    would write a dq for each. By the compiler's schedule for v5e, self-attention,
    forward and backward, then takes 5.0 instead of 8.4 ms (batch 16, 1024 tokens, 14
    heads of 32, bfloat16).

    Args:
      kernel: the module splash_attention_kernel of JAX.
      query, key: padded to multiples of the lanes.

    Returns:
      BlockSizes of `kernel`.
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


def largest_block(x: Shaped[AnyShape, "B heads N d"]) -> int:
    """Returns the tokens of a tile: the largest possible of 1024, 512, 256 and 128.

    It must divide the tokens and fit into vector memory.
    """
    *_, length, width = x.shape
    if width <= LANES:
        fits = SPLASH_TILE
    else:
        fits = min(SPLASH_TILE_OF_WIDE, SPLASH_TILE_BYTES // (width * x.dtype.itemsize))
    whole = (n for n in (1024, 512, 256) if length % n == 0 and n <= fits)
    return next(whole, LANES)


def pad_axis(x: Shaped[Array, "..."], axis: int, multiple: int) -> Shaped[Array, "..."]:
    """Pads an axis with zeros at its end up to a multiple."""
    missing = -x.shape[axis] % multiple
    if not missing:
        return x
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, missing)
    return jnp.pad(x, widths)
