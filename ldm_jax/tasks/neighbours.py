# SPDX-License-Identifier: Apache-2.0
"""Finds exact nearest neighbours by cosine, with rows sharded over all devices."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ldm_jax.parallel import sharding
from ldm_jax.parallel.hosts import fetch

# Similarities that exist at once on a device.
MAX_SIMILARITIES = 2**27


class Neighbours(NamedTuple):
    """The result of a search, nearest first; among equals the lower row comes first.

    Attributes:
      rows: [Q, k] int numbers of rows.
      similarity: [Q, k] float32 cosines.
    """

    rows: np.ndarray
    similarity: np.ndarray


class NeighbourSearch:
    """Searches the rows of a database, scaled to unit length and sharded over devices.

    Args:
      rows: [N, d] vectors of any length except 0.
      dtype: of the stored rows; bfloat16 halves the memory.

    Raises:
      ValueError: a row is 0.
    """

    def __init__(self, rows: np.ndarray, dtype=jnp.float32):
        length = np.linalg.norm(rows.astype(np.float32), axis=1, keepdims=True)
        if not (length > 0).all():
            raise ValueError(
                f"rows are compared by cosine, so none may be all zeros: row "
                f"{int(np.argmin(length))} is."
            )
        self.num_rows = len(rows)
        self._mesh = sharding.make_mesh()
        shards = self._mesh.size
        per_shard = -(-len(rows) // shards)
        padded = np.zeros((shards * per_shard, rows.shape[1]), dtype)
        padded[: len(rows)] = rows / length
        place = NamedSharding(self._mesh, PartitionSpec(self._mesh.axis_names))
        self._rows = jax.device_put(
            padded.reshape(shards, per_shard, rows.shape[1]), place
        )

    def nearest(self, queries: np.ndarray, k: int) -> Neighbours:
        """Finds the k nearest rows of each query [Q, d].

        Raises:
          ValueError: k is above the number of rows, or a query has another width.
        """
        if not 1 <= k <= self.num_rows:
            raise ValueError(
                f"neighbours must be 1 to {self.num_rows}, the rows of the database: "
                f"got {k}."
            )
        if queries.shape[1] != self._rows.shape[2]:
            raise ValueError(
                "queries and database must be embedded by the same network: got "
                f"{queries.shape[1]} numbers for rows of {self._rows.shape[2]}."
            )
        block = max(1, MAX_SIMILARITIES // self._rows.shape[1])
        blocks = []
        for low in range(0, len(queries), block):
            part = jnp.asarray(queries[low : low + block], jnp.float32)
            blocks.append(fetch(_search(self._rows, part, k, self.num_rows)))
        values, rows = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        return Neighbours(rows, values)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _search(rows, queries, k: int, num_rows: int):
    """Returns (similarity, rows) [Q, k]: the best of every shard, then of these."""
    shards, per_shard, _ = rows.shape
    queries = queries / jnp.linalg.norm(queries, axis=1, keepdims=True)
    similarity = jnp.einsum(
        "snd,qd->sqn", rows, queries, precision=jax.lax.Precision.HIGHEST
    ).astype(jnp.float32)
    number = jnp.arange(shards)[:, None] * per_shard + jnp.arange(per_shard)[None]
    similarity = jnp.where((number < num_rows)[:, None], similarity, -jnp.inf)
    best, place = jax.lax.top_k(similarity, min(k, per_shard))
    place = place + per_shard * jnp.arange(shards)[:, None, None]
    # Shards one after the other: equal similarities stay in the order of their rows.
    best = jnp.moveaxis(best, 0, 1).reshape(len(queries), -1)
    place = jnp.moveaxis(place, 0, 1).reshape(len(queries), -1)
    best, which = jax.lax.top_k(best, k)
    return best, jnp.take_along_axis(place, which, axis=1)
