# SPDX-License-Identifier: Apache-2.0
"""Nearest training images: copies are detected, and the order is that of LPIPS."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.metrics import nearest_images
from ldm_jax.metrics.nearest_images import PerceptualSearch
from ldm_jax.models.features.lpips import LPIPS

SIDE, NUM = 20, 6


@pytest.fixture(scope="module")
def search():
    """Six random images, searched with a random network."""
    rng = np.random.default_rng(0)
    train = rng.integers(0, 256, (NUM, SIDE, SIDE, 3), np.uint8)
    blank = jnp.zeros((1, SIDE, SIDE, 3))
    params = LPIPS("squeeze").init(jax.random.key(0), blank, blank)["params"]

    def read(rows):
        return train[list(rows)]

    return train, params, PerceptualSearch("squeeze", params, read, NUM)


def as_unit(image):
    return image.astype(np.float32) / 127.5 - 1


def test_a_copy_is_nearest_and_the_order_is_that_of_lpips(search):
    """Oracle: LPIPS of every pair, sorted."""
    train, params, index = search
    image = np.stack([train[4], 255 - train[1] // 2])
    nearest = index.nearest(image, NUM)
    # Compiled, equal features may differ in their last bit.
    assert nearest.indices[0, 0] == 4 and nearest.distances[0, 0] < 1e-12
    pairs = jnp.broadcast_to(as_unit(image[1]), train.shape), as_unit(train)
    distance = np.asarray(LPIPS("squeeze").apply({"params": params}, *pairs))
    np.testing.assert_array_equal(nearest.indices[1], np.argsort(distance))
    np.testing.assert_allclose(nearest.distances[1], np.sort(distance), rtol=1e-4)


def test_the_shortlist_limits_what_is_compared(search, monkeypatch):
    train, _, index = search
    monkeypatch.setattr(nearest_images, "SHORTLIST", 2)
    assert index.nearest(train[:1], 1).indices.tolist() == [[0]]
    with pytest.raises(ValueError, match="at most 2 of 6 training images: got 3"):
        index.nearest(train[:1], 3)
