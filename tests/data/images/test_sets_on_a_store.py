# SPDX-License-Identifier: Apache-2.0
"""Image sets on an object store: a prepared set is read from copies."""

import os
import pathlib

import numpy as np
import pytest

from ldm_jax.data.images.image_sets import open_images
from ldm_jax.files.stores.objects import create, put_file

pytestmark = pytest.mark.store


def test_a_prepared_set_is_read_as_from_a_disk(bucket, store, tmp_path):
    """Identity: the records of the set that was copied there."""
    local = open_images("digits", "test[:40]", os.fspath(tmp_path))
    folder = pathlib.Path(tmp_path, "digits", "1.0.0")
    for file in folder.iterdir():
        put_file(file, f"{bucket}/digits/1.0.0/{file.name}")
    store.requests.clear()
    remote = open_images(f"{bucket}/digits/1.0.0", "test[:40]")
    assert remote.fingerprint == local.fingerprint and len(remote) == len(local) == 40
    for actual, expected in zip(
        remote.__getitems__([3, 0]), [local[3], local[0]], strict=True
    ):
        np.testing.assert_array_equal(actual["image"], expected["image"])
        assert actual["label"] == expected["label"]
    assert store.count("read", "digits-test") == 1  # all of it, once
    assert len(store.requests) < 50  # TFDS looks at each file of metadata a few times


def test_a_folder_of_pictures_is_refused_with_the_way_out(bucket):
    assert create(f"{bucket}/photos/0.png", b"picture")
    with pytest.raises(ValueError, match=r"no dataset_info.json\. .* mount the bucket"):
        open_images(f"{bucket}/photos")


def test_a_bucket_that_is_not_there_is_one_line(bucket):
    with pytest.raises(ValueError, match="gs://no-such-bucket/set") as error:
        open_images("gs://no-such-bucket/set")
    assert "\n" not in str(error.value)
