# SPDX-License-Identifier: Apache-2.0
"""The nearest-neighbour classifier on sets whose answer is known."""

import numpy as np

from ldm_jax.metrics import nearest


def two_classes(rng, count):
    label = rng.integers(0, 2, count)
    noise = 0.1 * rng.standard_normal((count, 4, 4, 1))
    return label[:, None, None, None] * 2.0 - 1 + noise, label


def test_accuracy_is_one_for_separate_classes_and_zero_for_swapped_ones():
    rng = np.random.default_rng(0)
    train, train_label = two_classes(rng, 50)
    image, label = two_classes(rng, 20)
    assert nearest.classification_accuracy(train, train_label, image, label) == 1.0
    assert nearest.classification_accuracy(train, train_label, image, 1 - label) == 0.0


def test_distance_of_a_copy_is_zero_and_of_a_shift_is_the_shift():
    train = np.random.default_rng(0).standard_normal((30, 4, 4, 3))
    np.testing.assert_allclose(nearest.nearest_distances(train, train), 0, atol=1e-6)
    one = nearest.nearest_distances(train[:1], train[:1] + 0.25)
    np.testing.assert_allclose(one, 0.25, rtol=1e-5)
