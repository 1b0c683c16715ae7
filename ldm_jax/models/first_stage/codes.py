# SPDX-License-Identifier: Apache-2.0
"""Code vectors of VQ: their parameters, the nearest code, usage and renumbering."""

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Float32, Int, Int32

from ldm_jax.types import Array

# Codes whose distances are held at once: 512 codes x 8 latents of 64x64 take 64 MiB.
CODES_PER_BLOCK = 512


class Codebook(nn.Module):
    """Code vectors, drawn from U(-bound, bound)."""

    num_codes: int
    width: int
    bound: float

    @nn.compact
    def __call__(self) -> Float[Array, "{self.num_codes} {self.width}"]:
        """Returns the code vectors."""
        bound = self.bound

        def init(key, shape):
            return nn.initializers.uniform(2 * bound)(key, shape) - bound

        codes = self.param("embedding", init, (self.num_codes, self.width))
        return jnp.asarray(codes)  # NumPy parameters take no traced index


def nearest_code(
    z: Float[Array, "*n c"], codebook: Float[Array, "num_codes c"]
) -> Int32[Array, "*n"]:
    """Finds the entry of the codebook nearest to each vector; the first one on ties.

    In float32 at full precision, whatever the dtype of the model, since rounding would
    change codes. A scan runs over blocks of the codebook, so that B*h*w x num_codes
    distances never exist at once and the batch keeps its sharding.

    Returns:
      Indices in [0, num_codes), without a gradient.
    """
    z = lax.stop_gradient(z).astype(jnp.float32)
    codebook = lax.stop_gradient(codebook).astype(jnp.float32)
    num_codes, width = codebook.shape
    block = min(CODES_PER_BLOCK, num_codes)
    missing = -num_codes % block
    # |z - e|^2 without |z|^2, which is equal for all codes; padding is infinitely far.
    square = jnp.pad(
        jnp.sum(jnp.square(codebook), -1), (0, missing), constant_values=jnp.inf
    ).reshape(-1, block)
    blocks = jnp.pad(codebook, ((0, missing), (0, 0))).reshape(-1, block, width)

    def compare_block(best, xs):
        codes, square, first = xs
        product = jnp.einsum("...c,kc->...k", z, codes, precision=lax.Precision.HIGHEST)
        distance = jnp.expand_dims(square, range(z.ndim - 1)) - 2.0 * product
        index = jnp.argmin(distance, axis=-1).astype(jnp.int32)
        distance = jnp.min(distance, axis=-1)
        # Strictly nearer: of equal codes, the first is kept.
        nearer = distance < best[0]
        return (
            jnp.where(nearer, distance, best[0]),
            jnp.where(nearer, first + index, best[1]),
        ), None

    # Derived from z, so that the carry has the sharding of z.
    start = jnp.full_like(z[..., 0], jnp.inf), jnp.zeros_like(z[..., 0], jnp.int32)
    firsts = jnp.arange(len(blocks), dtype=jnp.int32) * block
    (_, indices), _ = lax.scan(compare_block, start, (blocks, square, firsts))
    return indices


def code_usage(
    indices: Int[Array, "..."], num_codes: int
) -> dict[str, Float32[Array, ""]]:
    """Measures how evenly the codes of a batch are used.

    Returns:
      "perplexity", exp(-sum p ln p) in [1, num_codes], and "codes_used", a count.
    """
    counts = jnp.zeros(num_codes, jnp.float32).at[indices.reshape(-1)].add(1.0)
    share = counts / indices.size
    perplexity = jnp.exp(-jnp.sum(share * jnp.log(share + 1e-10)))
    return {"perplexity": perplexity, "codes_used": jnp.sum(counts > 0, dtype=float)}


def remap_indices(
    indices: Int[Array, "*n"], used: Int[Array, " used"], unknown: int
) -> Int32[Array, "*n"]:
    """Renumbers code indices to positions in a list of used codes.

    A transformer over codes is smaller if its vocabulary has only the used ones.

    Args:
      indices: in [0, num_codes).
      used: distinct codes.
      unknown: position of codes that are not in `used`; len(used) makes it an extra id.
    """
    match = indices[..., None] == jnp.expand_dims(used, range(indices.ndim))
    position = jnp.argmax(match, axis=-1).astype(jnp.int32)
    return jnp.where(jnp.any(match, axis=-1), position, unknown)


def restore_indices(
    positions: Int[Array, "*n"], used: Int[Array, " used"]
) -> Int[Array, "*n"]:
    """Inverts `remap_indices`; an extra id is mapped to the first used code."""
    return used[jnp.where(positions < len(used), positions, 0)]
