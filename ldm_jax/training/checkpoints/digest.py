# SPDX-License-Identifier: Apache-2.0
"""A checksum of every array of a state, on whatever devices it is stored.

Checkpoint files are not protected against flipped bits: they are read back as other
numbers without an error. So a digest of each array is stored with it.
"""

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from ldm_jax.parallel.host_memory import on_device
from ldm_jax.parallel.sharding import path_name
from ldm_jax.types import Array, PyTree

# Elements of a NumPy array that are summed at once.
CHUNK = 2**20
_BITS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}


def digest(x: Array | np.ndarray) -> int:
    """Returns sum_i bits(x_i) (2 i + 1) mod 2^32, with i the flat index.

    The weights are odd, so any one flipped bit changes the sum; integer addition is
    associative, so the sum does not depend on how the array is split over devices. An
    element of 8 bytes counts as two of 4.

    Args:
      x: array of a 1-, 2-, 4- or 8-byte dtype.
    """
    return digests({"": x})[""]


def digests(tree: PyTree) -> dict[str, int]:
    """Returns the digest of every array of a tree by its path.

    Every process of a run must call it, with the same tree.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    # Shard by shard, each on its own device, and added up here. As one program per
    # array, with an all-reduce in each, thousands of programs were under way at once:
    # on the threads of a CPU's devices they met in another order on each, and waited
    # for each other forever. One program of all arrays takes minutes to compile.
    parts = jax.device_get([_of_shards(on_device(x)) for _, x in leaves])
    sums = np.array([sum(map(int, part)) % 2**32 for part in parts], np.uint32)
    if any(not getattr(x, "is_fully_addressable", True) for _, x in leaves):
        gathered = multihost_utils.process_allgather(sums)
        sums = gathered.sum(axis=0, dtype=np.uint32)
    return {path_name(p): int(s) for (p, _), s in zip(leaves, sums, strict=True)}


def _of_shards(x: Array | np.ndarray) -> list[Any]:
    """Returns the parts of an array's digest that this process holds, [] uint32 each.

    Of an array that is replicated on several devices, the first copy counts.
    """
    if not isinstance(x, jax.Array):
        return [_on_host(x)]
    return [
        _of_block(shard.data, _starts(shard.index), _strides(x))
        for shard in x.addressable_shards
        if shard.replica_id == 0
    ]


def _on_host(x: np.ndarray) -> np.uint32:
    """Returns the digest of a NumPy array, [] uint32; copies CHUNK elements at a time.

    On a device the complete array would be copied, and all of a tree at once.
    """
    size = min(x.dtype.itemsize, 4)
    bits = np.ascontiguousarray(x).reshape(-1).view(f"uint{8 * size}")
    total = np.uint32(0)
    with np.errstate(over="ignore"):  # modulo 2^32
        for first in range(0, bits.size, CHUNK):
            part = bits[first : first + CHUNK].astype(np.uint32)
            index = np.arange(first, first + part.size, dtype=np.uint64)
            weights = 2 * index.astype(np.uint32) + np.uint32(1)
            total += np.sum(part * weights, dtype=np.uint32)
    return total


def _starts(index: tuple[slice, ...]) -> np.ndarray:
    """Returns where a shard begins along each axis."""
    return np.array([part.start or 0 for part in index], np.uint32)


def _strides(x: Array | np.ndarray) -> np.ndarray:
    """Returns the distance between neighbours along each axis of the whole array."""
    sizes = [np.prod(x.shape[axis + 1 :], dtype=np.int64) for axis in range(x.ndim)]
    return np.array([size % 2**32 for size in sizes], np.uint32)


@jax.jit
def _of_block(x: Array, starts: Array, strides: Array) -> Array:
    """Returns the contribution of a block to the digest of its array, [] uint32.

    Args:
      x: the block.
      starts: [axes] uint32, where it begins in the array.
      strides: [axes] uint32, distances between neighbours in the array.
    """
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    index = jnp.zeros(x.shape, jnp.uint32)
    for axis in range(x.ndim):
        along = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        index = index + (along + starts[axis]) * strides[axis]
    bits = jax.lax.bitcast_convert_type(x, _BITS[x.dtype.itemsize])
    if x.dtype.itemsize == 8:
        half = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, x.ndim)
        index = 2 * index[..., None] + half
    weighted = bits.astype(jnp.uint32) * (2 * index + jnp.uint32(1))
    return jnp.sum(weighted, dtype=jnp.uint32)


def params_fingerprint(tree: PyTree) -> str:
    """Names a tree of parameters by its values: 16 hexadecimal digits.

    The same parameters have the same fingerprint on any machine and any mesh.
    """
    text = json.dumps(digests(tree), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
