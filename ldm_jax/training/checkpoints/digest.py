# SPDX-License-Identifier: Apache-2.0
"""A checksum of every array of a state, whatever devices it lies on.

Checkpoint files are not protected against flipped bits: they are read back as other
numbers without an error. So each array's digest is stored beside it.
"""

import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.parallel.host_memory import on_device
from ldm_jax.parallel.sharding import path_name
from ldm_jax.types import Array, PyTree

_BITS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


@jax.jit
def digest(x: Array) -> Array:
    """Returns sum_i bits(x_i) (2 i + 1) mod 2^32, with i the flat index.

    The weights are odd, so any one flipped bit changes the sum; integer addition is
    associative, so the sum does not depend on how the array is split over devices.

    Args:
      x: array of a 1-, 2- or 4-byte dtype.

    Returns:
      [] uint32.
    """
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(x, _BITS[x.dtype.itemsize])
    index = jnp.zeros(x.shape, jnp.uint32)
    for axis, stride in enumerate(_strides(x.shape)):
        along = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        index = index + along * jnp.uint32(stride % 2**32)
    weighted = bits.astype(jnp.uint32) * (2 * index + jnp.uint32(1))
    return jnp.sum(weighted, dtype=jnp.uint32)


def _strides(shape: tuple[int, ...]) -> list[int]:
    """Returns the distance, in elements, between neighbours along each axis."""
    return [
        int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape))
    ]


def digests(tree: PyTree) -> dict[str, int]:
    """Returns the digest of every array of a tree by its path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    values = jax.device_get([digest(on_device(x)) for _, x in leaves])
    return {path_name(p): int(v) for (p, _), v in zip(leaves, values, strict=True)}


def fingerprint(tree: PyTree) -> str:
    """Names a tree of parameters by its values: 16 hexadecimal digits.

    The same parameters have the same fingerprint on any machine and any mesh.
    """
    text = json.dumps(digests(tree), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
