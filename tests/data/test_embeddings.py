# SPDX-License-Identifier: Apache-2.0
"""Databases in the published layout: one file or a folder, and errors."""

import numpy as np
import pytest

from ldm_jax.data.embeddings import EmbeddingDatabase, read_database, write_database


def rows(num, width=4, first=0):
    rng = np.random.default_rng(first)
    return dict(
        embedding=rng.normal(size=(num, width)).astype(np.float32),
        img_id=np.arange(first, first + num),
        patch_coords=np.tile([0, 0, 256, 256], (num, 1)),
    )


def test_files_of_a_folder_are_joined_in_the_order_of_their_names(tmp_path):
    np.savez(tmp_path / "b.npz", **rows(3, first=5))
    np.savez_compressed(tmp_path / "a.npz", **rows(5))
    database = read_database(str(tmp_path))
    assert database.img_id.tolist() == list(range(8)) and database.clip == ""
    np.testing.assert_array_equal(database.embedding[5:], rows(3, first=5)["embedding"])


def test_a_database_comes_back(tmp_path):
    """Identity: with the name of its encoder and its image set."""
    images = '{"dataset": "./a", "fingerprint": "1f"}'
    database = EmbeddingDatabase(**rows(3), clip="abc", images=images)
    assert database.image_set == {"dataset": "./a", "fingerprint": "1f"}
    assert EmbeddingDatabase(**rows(3)).image_set == {}
    write_database(tmp_path / "d.npz", database)
    back = read_database(str(tmp_path / "d.npz"))
    for actual, expected in zip(back, database, strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"img_id": None}, "lacks img_id and holds embedding, patch_coords"),
        ({"patch_coords": np.zeros((2, 4))}, "patch_coords .* must have 2 axes and 3"),
        ({"embedding": np.full((3, 4), np.inf)}, "rows of finite numbers"),
    ],
)
def test_a_damaged_database_is_refused_by_its_array(tmp_path, changes, message):
    arrays = {k: v for k, v in {**rows(3), **changes}.items() if v is not None}
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        read_database(str(tmp_path / "d.npz"))


def test_files_of_two_encoders_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", **rows(3))
    np.savez(tmp_path / "b.npz", **rows(3, width=5))
    with pytest.raises(ValueError, match="must have one width"):
        read_database(str(tmp_path))
    with pytest.raises(ValueError, match="make one with ldm-jax database"):
        read_database(str(tmp_path / "none"))
