# SPDX-License-Identifier: Apache-2.0
"""Records get the embeddings of their neighbours."""

import numpy as np

from ldm_jax.data.neighbours import WithNeighbours


class Numbers(list):
    fingerprint, num_classes, class_names = "n", 2, ("a", "b")

    def __getitems__(self, indices):
        return [self[i] for i in indices]


def test_a_record_gets_the_rows_of_its_neighbours():
    """Identity: by number, one by one or several, and the set keeps its name."""
    source = Numbers([{"label": i} for i in range(3)])
    embedding = np.arange(8, dtype=np.float32).reshape(4, 2)
    rows = np.array([[3, 1], [0, 2], [2, 2]])
    images = WithNeighbours(source, rows, embedding)
    assert images[0]["embeddings"].tolist() == [[6, 7], [2, 3]]
    several = images.__getitems__([2, 1])
    assert [record["label"] for record in several] == [2, 1]
    assert several[1]["embeddings"].tolist() == [[0, 1], [4, 5]]
    assert several[0]["embeddings"].dtype == np.float16
    assert (len(images), images.fingerprint, images.class_names) == (3, "n", ("a", "b"))
