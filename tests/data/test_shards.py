# SPDX-License-Identifier: Apache-2.0
"""Shards are written atomically."""

import hashlib
import os

import pytest

from ldm_jax.data.shards import done, shard_file, write_shard


def test_a_shard_is_named_as_tfds_expects():
    name = shard_file("latents", "train", 3, 12)
    assert name == "latents-train.array_record-00003-of-00012"


def test_the_metadata_of_a_whole_shard_describe_it(tmp_path):
    path = tmp_path / "shard"
    with write_shard(path, {"plan": "x"}) as append:
        assert done(tmp_path) == {}
        append(b"one")
        append(b"two")
    assert done(tmp_path)["shard"] == {
        "plan": "x",
        "count": 2,
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "first": hashlib.sha256(b"one").hexdigest(),
    }
    assert sorted(p.name for p in tmp_path.iterdir()) == ["shard", "shard.done.json"]


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), write_shard(tmp_path / "shard", {}) as append:
        append(b"one")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "missing", "no side file"])
def test_a_damaged_shard_is_not_done(tmp_path, damage):
    path = tmp_path / "shard"
    with write_shard(path, {}) as append:
        append(b"one")
    if damage == "cut":
        os.truncate(path, 10)
    else:
        (path if damage == "missing" else tmp_path / "shard.done.json").unlink()
    assert done(tmp_path) == {}
