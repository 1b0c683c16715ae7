# SPDX-License-Identifier: Apache-2.0
"""Keeps a uniform random sample of a stream, in constant memory."""

import numpy as np
from jaxtyping import Shaped

from ldm_jax.types import Array


class Reservoir:
    """Keeps a uniform random sample of a stream of unknown length.

    The sample depends on the seed and on the order of the rows, but not on how the rows
    are divided into batches.

    Source: Vitter 1985, Algorithm R.
    """

    def __init__(self, size: int, seed: int = 0):
        """Takes the maximum number of rows to keep, and the seed of the choice."""
        self._size, self._seen = size, 0
        self._rng = np.random.default_rng(seed)
        self._rows: list[np.ndarray] = []

    def update(self, rows: Shaped[Array, "B ..."]) -> None:
        """Adds a batch of rows."""
        for row in np.asarray(rows):
            self._seen += 1
            if len(self._rows) < self._size:
                self._rows.append(row.copy())
            elif self._size:
                place = int(self._rng.integers(self._seen))
                if place < self._size:
                    self._rows[place] = row.copy()

    def rows(self) -> Shaped[np.ndarray, "kept ..."]:
        """Returns the rows that were kept; all rows of a short stream."""
        return np.stack(self._rows) if self._rows else np.zeros((0, 0), np.float32)
