# SPDX-License-Identifier: Apache-2.0
"""Databases made of an image set: rows, places of patches, the encoder's name."""

import numpy as np
import pytest

from ldm_jax.commands.database import build_database
from ldm_jax.data.embeddings import read_database
from ldm_jax.data.records import DamagedRecord


class Clip:
    """Embeds a patch as its mean colour and its side."""

    fingerprint = "abc"
    width = 4

    def embed_images(self, images):
        raise NotImplementedError("a database embeds patches")

    def embed_patches(self, patches):
        return np.stack([[*p.mean((0, 1)), p.shape[0]] for p in patches])


class Images(list):
    """Images of which one is damaged."""

    fingerprint = "these images"

    def __getitems__(self, indices):
        return [self[i] for i in indices]

    def __getitem__(self, index):
        if index == 1:
            raise DamagedRecord("damaged")
        return {"image": super().__getitem__(index)}


def test_middle_squares_are_embedded_and_damaged_images_left_out(tmp_path):
    wide = np.zeros((4, 10, 3), np.uint8)
    wide[:, 3:7] = 200
    source = Images([wide, None, np.full((6, 6, 3), 50, np.uint8)])
    out = str(tmp_path / "d.npz")
    build_database(lambda: source, Clip, out, batch_size=2, images={"dataset": "./a"})
    written = read_database(out)
    assert written.embedding.tolist() == [[200, 200, 200, 4], [50, 50, 50, 6]]
    assert written.img_id.tolist() == [0, 2] and written.clip == "abc"
    assert written.patch_coords.tolist() == [[3, 0, 7, 4], [0, 0, 6, 6]]
    assert written.image_set == {"dataset": "./a", "fingerprint": "these images"}
    with pytest.raises(ValueError, match=r"d\.npz"):
        build_database(lambda: source, Clip, out)
