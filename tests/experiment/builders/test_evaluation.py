# SPDX-License-Identifier: Apache-2.0
"""Which records the sheets of a run are made of."""

import numpy as np
import pytest

from ldm_jax.experiment.builders.evaluation import spread


@pytest.mark.parametrize("size", [1, 2, 16, 100, 1442])
def test_no_record_comes_twice_before_all_came_once(size):
    places = spread(size, size)
    assert sorted(places) == list(range(size))


@pytest.mark.parametrize("size", [50, 600, 1442])
def test_the_first_few_are_spread_over_all(size):
    """Oracle: of 16 places, each fifth of the set has two to five."""
    counts, _ = np.histogram(spread(16, size), bins=5, range=(0, size))
    assert counts.min() >= 2 and counts.max() <= 5
