# SPDX-License-Identifier: Apache-2.0
"""Keeps a uniform sample of a stream, in memory that its length does not change."""

import numpy as np
from jaxtyping import Shaped

from ldm_jax.types import Array


class Reservoir:
    """Keeps a uniform random sample of a stream of unknown length.

    The choice depends on the seed and the rows' order, not on the batches they came in.

    Source: Vitter 1985, Algorithm R.
    """

    def __init__(self, size: int, seed: int = 0):
        """Args: `size`, rows kept at most; `seed` of the choice."""
        self._size, self._seen = size, 0
        self._rng = np.random.default_rng(seed)
        self._rows: list[np.ndarray] = []

    def update(self, rows: Shaped[Array, "B ..."]) -> None:
        """Adds rows."""
        for row in np.asarray(rows):
            self._seen += 1
            if len(self._rows) < self._size:
                self._rows.append(row.copy())
            elif self._size:
                place = int(self._rng.integers(self._seen))
                if place < self._size:
                    self._rows[place] = row.copy()

    def rows(self) -> Shaped[np.ndarray, "kept ..."]:
        """Returns the rows kept: the whole stream if it was short."""
        return np.stack(self._rows) if self._rows else np.zeros((0, 0), np.float32)
