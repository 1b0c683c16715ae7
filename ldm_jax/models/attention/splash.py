# SPDX-License-Identifier: Apache-2.0
"""JAX's splash attention for TPUs, as latent grids want it."""

import jax
import jax.numpy as jnp

from ldm_jax.models.attention.packed import LANES
from ldm_jax.types import Array

# Most tokens of a tile of splash attention; for heads wider than the lanes, and their
# most bytes. With more the backward pass needs more than the 16 MiB of vector memory
# that the compiler for v5e grants at its least effort.
SPLASH_TILE = 1024
SPLASH_TILE_OF_WIDE, SPLASH_TILE_BYTES = 512, 512 * 2**10


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
