# SPDX-License-Identifier: Apache-2.0
"""Features of random weights: fixed, and far for images that look wrong."""

import numpy as np
import pytest

from ldm_jax.metrics.image_sets.distribution import Collector, label
from ldm_jax.metrics.image_sets.measure import open_feature_network


def pictures(seed, count=300):
    """Smooth random pictures [count, 16, 16, 3] uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 4, 4, 3))
    return np.repeat(np.repeat(coarse, 4, 1), 4, 2).astype(np.uint8)


@pytest.fixture(scope="module")
def network():
    return open_feature_network("random")


def distance(network, images):
    """Frechet and kernel distance of images from 300 others."""
    real, fake = Collector(["fid", "kid"], 300), Collector(["fid", "kid"], 300)
    real.update(network.run(pictures(0)))
    fake.update(network.run(images))
    figures = fake.compute(real.reference({}))
    return np.array([figures[name].value for name in ("fid", "kid")])


def test_the_features_are_those_of_this_seed(network):
    """Golden: the stream of NumPy's RandomState never changes."""
    image = np.full((1, 8, 8, 3), 200, np.uint8)
    pool = network.run(image)["pool"]
    assert pool.shape == (1, 192)
    np.testing.assert_allclose(pool[0, :3], GOLDEN, rtol=1e-4)


GOLDEN = (0.00236105, 0.036188, 0.00013280)


def test_distances_grow_with_noise_blur_and_wrong_colours(network):
    same = pictures(1)
    rng = np.random.default_rng(2)
    noisy = np.clip(same + rng.normal(0, 60, same.shape), 0, 255).astype(np.uint8)
    blurred = np.repeat(same.mean((1, 2), keepdims=True), 16, 1).repeat(16, 2)
    tinted = same.copy()
    tinted[..., 0] //= 2
    near = np.abs(distance(network, same))
    for wrong in (noisy, blurred.astype(np.uint8), tinted):
        assert (distance(network, wrong) > 5 * near).all()


def test_no_distance_of_random_features_is_called_fid(network):
    assert label("fid", network.metadata) == "FD(random)"
    assert label("kid", network.metadata) == "KD(random)"


def test_a_file_of_weights_and_logits_are_refused():
    from ldm_jax.metrics.image_sets.distribution import check_network

    with pytest.raises(ValueError, match='"random" draws its weights: got the file x'):
        open_feature_network("random", "x")
    with pytest.raises(ValueError, match="is needs logits"):
        check_network(["is"], ["pool"])
