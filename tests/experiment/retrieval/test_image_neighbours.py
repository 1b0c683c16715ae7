# SPDX-License-Identifier: Apache-2.0
"""Neighbours of the images that latents are of: never the image itself."""

import json

import numpy as np
import pytest

from ldm_jax.data.embeddings import EmbeddingDatabase, write_database
from ldm_jax.data.records import DamagedRecord
from ldm_jax.experiment.retrieval import image_embedder
from ldm_jax.experiment.retrieval.image_embedder import EmbedderSource
from ldm_jax.experiment.retrieval.image_neighbours import (
    NeighbourSource,
    neighbours_of_images,
)

FEATURES = EmbedderSource(feature_network="fake")


class Images(list):
    def __init__(self, images, fingerprint):
        super().__init__(images)
        self.fingerprint = fingerprint

    def __getitems__(self, indices):
        return [self[i] for i in indices]

    def __getitem__(self, index):
        if super().__getitem__(index) is None:
            raise DamagedRecord("damaged")
        return {"image": super().__getitem__(index)}


class MeanColour:
    """Embeds a patch as its mean colour."""

    width, fingerprint = 3, "mean"

    def __init__(self, *args):
        pass

    def embed_patches(self, patches):
        return np.stack([patch.mean((0, 1)) for patch in patches])


@pytest.fixture(autouse=True)
def _(monkeypatch):
    monkeypatch.setattr(image_embedder, "FeatureEmbedder", MeanColour)


def database(embedding, img_id, clip="mean", images=""):
    embedding = np.float32(embedding)
    coords = np.zeros((len(embedding), 4), int)
    return EmbeddingDatabase(embedding, np.array(img_id), coords, clip, images)


def plain(*colours):
    return [c if c is None else np.full((4, 6, 3), c, np.uint8) for c in colours]


def test_an_image_is_not_its_own_neighbour():
    """Oracle: by hand; image 2 has two patches, and both are left out."""
    rows = [[1, 0, 0], [9, 1, 0], [0, 1, 0], [0, 5, 1], [0, 0, 1]]
    images = json.dumps({"fingerprint": "same"})
    embedded = database(rows, [0, 1, 2, 2, 4], images=images)
    source = Images(plain(1, 2, 3, None, 5), "same")
    nearest = neighbours_of_images(source, embedded, 2, EmbedderSource())
    assert nearest[0].tolist() == [1, 2] and nearest[1, 0] == 0
    assert not {2, 3} & set(nearest[2]) and nearest[4, 0] == 3
    assert nearest[3].tolist() == [0, 0]  # damaged, so it is dropped later


def test_other_images_are_embedded_by_the_network_of_the_database():
    """Oracle: the nearest colour; a damaged image is passed over."""
    embedded = database([[9, 0, 0], [0, 3, 0], [0, 0, 7]], [0, 1, 2])
    source = Images(plain((0, 80, 9), None, (8, 0, 90)), "others")
    nearest = neighbours_of_images(source, embedded, 2, FEATURES, batch_size=2)
    assert nearest.tolist() == [[1, 2], [0, 0], [2, 0]]
    with pytest.raises(ValueError, match="got none; give --clip-model"):
        neighbours_of_images(source, embedded, 2, EmbedderSource())


def test_a_database_of_another_network_is_refused():
    source = Images(plain(1), "others")
    embedded = database(np.eye(3), [0, 1, 2], clip="vit")
    with pytest.raises(
        ValueError, match=r"is of vit with 3 numbers, .* is mean with 3"
    ):
        neighbours_of_images(source, embedded, 1, FEATURES)
    with pytest.raises(ValueError, match="an unnamed one with 4 numbers"):
        neighbours_of_images(source, database(np.eye(4), range(4), ""), 1, FEATURES)


def test_more_neighbours_than_rows_are_refused():
    images = json.dumps({"fingerprint": "same"})
    embedded = database(np.eye(3), [0, 1, 2], images=images)
    source = Images(plain(1, 2, 3), "same")
    with pytest.raises(ValueError, match="got 3 of 3 rows, and 1 of the image itself"):
        neighbours_of_images(source, embedded, 3, EmbedderSource())


def test_embeddings_that_float16_cannot_hold_are_refused(tmp_path):
    write_database(tmp_path / "d.npz", database([[1e5, 0], [1, 1]], [0, 1]))
    with pytest.raises(ValueError, match="stored as float16, at most 65504"):
        NeighbourSource(str(tmp_path / "d.npz"), 1).attach(Images(plain(1), "a"))
