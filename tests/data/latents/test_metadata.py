# SPDX-License-Identifier: Apache-2.0
"""Metadata of latents are believed only as far as they can be true."""

import json
import shutil

import numpy as np
import pytest

from ldm_jax.data.images.image_sets import open_images
from ldm_jax.data.latents.encoder import LatentJob
from ldm_jax.data.latents.source import open_latents
from ldm_jax.data.latents.write import write_latents
from ldm_jax.data.transforms.image_transform import ImageTransform
from ldm_jax.files.errors import UnreadableFile


def write(directory, factor=1.0):
    def encode(image):
        mean = factor * np.asarray(image)[:, ::2, ::2]
        return np.concatenate([mean, 0 * mean], axis=-1)

    source = open_images("digits", "test[:8]", cache_mib=0)
    job = LatentJob(3, "a", 4, records_per_shard=4)
    write_latents(encode, source, ImageTransform(8), str(directory), job)
    return directory


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write(tmp_path_factory.mktemp("latents") / "set")


@pytest.fixture
def latents(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "set")


def change(folder, path, value):
    metadata = json.loads((folder / "metadata.json").read_text())
    *outer, last = path
    entry = metadata
    for key in outer:
        entry = entry[key]
    entry[last] = value
    (folder / "metadata.json").write_text(json.dumps(metadata))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *((("stats", "scale"), value) for value in (0, -1, float("nan"), "1", None)),
        (("stats", "scale"), 3.0),
        (("stats", "std"), float("inf")),
        (("stats", "mean"), float("nan")),
        (("stats", "scale_error"), -1.0),
        *((("stats", "count"), value) for value in (0, -8, 7, 1e3, "8", None)),
        *((("stats", "f"), value) for value in (0, -2, 2.0, 10**9)),
        *((("stats", "latent_shape"), v) for v in ([4, 4], [4, 4, -3], [9, 9, 3], 4)),
        (("stats", "dropped"), -1),
        (("stats", "mean"), 1e200),
        (("stats", "scale_error"), 10**400),
        (("stats", "autoencoder"), None),
        (("stats", "transform"), []),
        (("stats", "more"), 1),
        (("stats",), []),
        (("shards",), {}),
        (("shards",), [["x"]]),
        (("shards", 0, 0), "../../etc/passwd"),
        (("shards", 0, 0), "/etc/passwd"),
        (("shards", 0, 1), -4),
        (("shards", 0, 1), 3),
        (("fields",), {}),
        (("fields", "moments"), ["object", [4, 4, 6]]),
        (("fields", "moments"), ["float16", [10**9, 10**9]]),
        (("fields", "moments"), ["float16", [4, 4, 5]]),
        (("fields", "moments"), ["no dtype", [4, 4, 6]]),
        (("fields", "moments"), "str"),
    ],
    ids=str,
)
def test_values_that_cannot_be_are_refused_by_name(latents, path, value):
    change(latents, path, value)
    with pytest.raises(UnreadableFile, match=r"metadata\.json|not one of latents"):
        open_latents(latents)


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '{"stats": '])
def test_cut_metadata_are_refused(latents, text):
    (latents / "metadata.json").write_text(text)
    with pytest.raises(UnreadableFile, match=r"metadata\.json"):
        open_latents(latents)


def test_a_shard_of_another_set_is_refused(latents, tmp_path):
    """Same images, same layout and size; only the numbers are another encoder's."""
    other = write(tmp_path / "other", factor=2.0)
    name = sorted(p.name for p in other.glob("*array_record*-of-00002"))[1]
    assert (other / name).stat().st_size == (latents / name).stat().st_size
    shutil.copy(other / name, latents / name)
    with pytest.raises(UnreadableFile, match="00001-of-00002 is of another set"):
        open_latents(latents)


def test_sets_of_different_contents_have_different_fingerprints(whole, tmp_path):
    source, _ = open_latents(whole)
    other, _ = open_latents(write(tmp_path / "other", factor=2.0))
    assert source.fingerprint != other.fingerprint
    assert source.fingerprint == open_latents(whole)[0].fingerprint


def test_every_byte_of_the_shards_can_be_verified(latents):
    source, _ = open_latents(latents)
    source.verify()
    shard = sorted(latents.glob("*array_record*-of-00002"))[1]
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(UnreadableFile, match="1 shards are not as they were written"):
        source.verify()
