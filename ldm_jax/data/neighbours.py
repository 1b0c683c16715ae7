# SPDX-License-Identifier: Apache-2.0
"""Adds to each image of a set the embeddings of its neighbours in a database."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ldm_jax.data.records import Record, Source


class WithNeighbours:
    """Records of a set, with "embeddings" float16 [k, d] of their neighbours.

    Attributes:
      fingerprint, num_classes, class_names, box_names: of the set.

    Args:
      source: the set, N records.
      rows: int [N, k], for each record the rows of its neighbours.
      embedding: [M, d], the rows.
    """

    def __init__(self, source: Source, rows: np.ndarray, embedding: np.ndarray):
        assert len(rows) == len(source), (len(rows), len(source))
        self._source, self._rows, self._embedding = source, rows, embedding
        self.fingerprint = source.fingerprint
        self.num_classes = getattr(source, "num_classes", None)
        self.class_names = getattr(source, "class_names", ())
        self.box_names = getattr(source, "box_names", ())

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        return self._with_neighbours(int(index), self._source[index])

    def __getitems__(self, indices: Sequence[int]) -> list[Record]:
        records = self._source.__getitems__(indices)
        return [
            self._with_neighbours(int(i), record)
            for i, record in zip(indices, records, strict=True)
        ]

    def _with_neighbours(self, index: int, record: Record) -> dict[str, Any]:
        rows = self._embedding[self._rows[index]]
        return {**record, "embeddings": rows.astype(np.float16)}
