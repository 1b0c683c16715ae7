# SPDX-License-Identifier: Apache-2.0
"""Examples of a condition: the order of boxes is drawn where the model says so."""

import numpy as np

from ldm_jax.conditions.registry import make_condition
from ldm_jax.tasks.condition_transform import ConditionTransform


def boxes_of(random_order, seed):
    """Returns the labels of a record's boxes in the order of their tokens."""
    layout = make_condition(
        "layout", num_classes=6, width=8, depth=1, random_order=random_order
    )
    transform = ConditionTransform(lambda record, rng: dict(record), layout)
    record = {
        "moments": np.zeros(1),
        "box_labels": np.array([0, 1, 2, 3, 4, -1]),
        "boxes": np.array([[0.1 * i, 0, 0.1, 0.1] for i in range(6)], np.float32),
    }
    example = transform(record, np.random.default_rng(seed))
    assert set(example) == {"moments", "tokens"}
    tokens = example["tokens"][: 3 * 5].reshape(5, 3)
    # A box stays with its label: the further right it is, the higher its position.
    assert (np.argsort(tokens[:, 1]) == np.argsort(tokens[:, 0])).all()
    return tokens[:, 0].tolist()


def test_boxes_keep_their_order_or_get_a_new_one_each_time():
    """Identity: the same boxes, without padding; the seed alone decides the order."""
    assert boxes_of(False, 0) == boxes_of(False, 1) == [0, 1, 2, 3, 4]
    first, second = boxes_of(True, 0), boxes_of(True, 1)
    assert sorted(first) == sorted(second) == [0, 1, 2, 3, 4]
    assert first != second and first == boxes_of(True, 0)
