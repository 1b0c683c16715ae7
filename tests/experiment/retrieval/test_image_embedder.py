# SPDX-License-Identifier: Apache-2.0
"""The choice of the network that embeds images, and its crop of an image."""

import numpy as np
import pytest

from ldm_jax.experiment.retrieval.image_embedder import EmbedderSource, middle_square


def test_features_embed_the_middle_square_of_an_image():
    """Identity: an image's embedding is that of its square, as in databases."""
    embedder = EmbedderSource(feature_network="random").open()
    image = np.random.default_rng(0).integers(0, 256, (20, 32, 3), np.uint8)
    square, place = middle_square(image)
    assert square.shape == (20, 20, 3) and place == (6, 0, 26, 20)
    rows = embedder.embed_images([image, image[:, ::-1]])
    assert rows.shape == (2, embedder.width)
    np.testing.assert_allclose(rows[:1], embedder.embed_patches([square]), rtol=1e-5)
    assert embedder.fingerprint.startswith("random-")


def test_one_network_is_named():
    assert not EmbedderSource().is_given and EmbedderSource("clip").is_given
    with pytest.raises(ValueError, match="got none; give --clip-model FOLDER"):
        EmbedderSource().open()
    with pytest.raises(ValueError, match="the CLIP model clip and the feature network"):
        EmbedderSource("clip", "mobilenet")
    with pytest.raises(ValueError, match=r"clip lacks config\.json"):
        EmbedderSource("clip").open()
