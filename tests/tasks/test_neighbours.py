# SPDX-License-Identifier: Apache-2.0
"""The search against NumPy's sort, with equal rows, on several devices."""

import numpy as np
import pytest

from ldm_jax.tasks import neighbours
from ldm_jax.tasks.neighbours import NeighbourSearch


def sorted_rows(rows, queries, k):
    """NumPy's answer: cosines, descending, of equal ones the lower row."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = queries / np.linalg.norm(queries, axis=1, keepdims=True) @ unit.T
    return np.argsort(-cosine.round(6), axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("num", [5, 64, 101])
def test_the_search_sorts_by_cosine_whatever_the_shards(num, monkeypatch):
    """Oracle: np.argsort; rows of any length, more devices than rows too."""
    rng = np.random.default_rng(num)
    rows = rng.normal(size=(num, 6)).astype(np.float32)
    rows[num // 2] = 2 * rows[0]  # in the same direction: a tie
    queries = rng.normal(size=(7, 6)).astype(np.float32)
    queries[0] = rows[0]
    nearest = NeighbourSearch(rows).nearest(queries, min(num, 9))
    np.testing.assert_array_equal(nearest.rows, sorted_rows(rows, queries, min(num, 9)))
    assert nearest.rows[0, :2].tolist() == [0, num // 2]
    np.testing.assert_allclose(nearest.similarity[0, :2], 1, rtol=1e-5)
    monkeypatch.setattr(neighbours, "MAX_SIMILARITIES", 1)  # a query at a time
    again = NeighbourSearch(rows).nearest(queries, min(num, 9))
    np.testing.assert_array_equal(again.rows, nearest.rows)


def test_what_cannot_be_searched_is_refused():
    search = NeighbourSearch(np.eye(4, dtype=np.float32))
    with pytest.raises(ValueError, match="must be 1 to 4, the rows"):
        search.nearest(np.eye(4), 5)
    with pytest.raises(
        ValueError, match="by the same network: got 3 numbers for rows of 4"
    ):
        search.nearest(np.eye(3), 1)
    with pytest.raises(ValueError, match="row 1 is"):
        NeighbourSearch(np.float32([[1, 0], [0, 0]]))
