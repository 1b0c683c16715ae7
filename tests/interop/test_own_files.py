# SPDX-License-Identifier: Apache-2.0
"""Our own parameters in safetensors, npz and orbax: identity, and damaged files."""

import json

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from safetensors.numpy import load_file

from ldm_jax.interop.layouts import NamesDiffer
from ldm_jax.interop.own_files import (
    flatten,
    holds_own,
    read_own,
    write_own_folder,
    write_own_npz,
    write_own_orbax,
)
from tests.interop import small

SETTINGS = small.CLASSES
FILES = {"tokenizer/vocab.txt": b"a\nb\n"}


@pytest.fixture(scope="module")
def params():
    return small.drawn(SETTINGS)


def assert_same(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.parametrize("shard_bytes", [10**9, 10_000])
def test_a_folder_comes_back_bit_for_bit(shard_bytes, params, tmp_path):
    write_own_folder(tmp_path / "a", SETTINGS, params, FILES, shard_bytes)
    assert holds_own(tmp_path / "a")
    settings, again, files = read_own(tmp_path / "a")
    assert settings == json.loads(json.dumps(SETTINGS)) and files == FILES
    assert_same(again, params)


def test_shards_have_an_index_and_stay_below_their_size(params, tmp_path):
    paths = write_own_folder(tmp_path, SETTINGS, params, shard_bytes=10_000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    shards = [path for path in paths if path.suffix == ".safetensors"]
    assert len(shards) > 2
    for path in shards:
        tensors = load_file(path)
        assert len(tensors) == 1 or sum(x.nbytes for x in tensors.values()) <= 10_000
        assert all(index["weight_map"][name] == path.name for name in tensors)
    total = sum(x.nbytes for x in flatten(params).values())
    assert index["metadata"]["total_size"] == total


def test_an_npz_comes_back_bit_for_bit(params, tmp_path):
    write_own_npz(tmp_path / "a.npz", SETTINGS, params, FILES)
    settings, again, files = read_own(tmp_path / "a.npz")
    assert settings == json.loads(json.dumps(SETTINGS)) and files == FILES
    assert_same(again, params)


def test_npz_holds_our_own_names(params, tmp_path):
    write_own_npz(tmp_path / "a.npz", SETTINGS, params)
    loaded = np.load(tmp_path / "a.npz")
    kernel = params["autoencoder"]["encoder"]["conv_in"]["kernel"]
    np.testing.assert_array_equal(loaded["autoencoder/encoder/conv_in/kernel"], kernel)
    # and one array for the settings
    assert len(loaded.files) == len(jax.tree.leaves(params)) + 1


def test_plain_orbax_reads_the_parameters(params, tmp_path):
    write_own_orbax(tmp_path / "a", SETTINGS, params)
    with ocp.StandardCheckpointer() as checkpointer:
        again = checkpointer.restore(tmp_path / "a" / "params")
    assert_same(jax.tree.map(np.asarray, again), params)


def test_arrays_that_are_not_the_models_are_listed(params, tmp_path):
    flat = flatten(params)
    flat["unet/conv_in/bias"] = np.zeros(3, np.float32)
    del flat["unet/conv_out/bias"]
    flat["unet/odd"] = np.zeros(1, np.float32)
    arrays = {**flat, "config.json": np.array(json.dumps(SETTINGS))}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(NamesDiffer) as error:
        read_own(tmp_path / "a.npz")
    for line in (
        "unet/conv_in/bias: (3,), expected (32,)",
        "unet/conv_out/bias: missing, expected (2,)",
        "unet/odd: (1,), expected nothing",
    ):
        assert line in str(error.value)


def test_an_npz_without_settings_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(1))
    with pytest.raises(ValueError, match=r"must hold its settings \(config\.json\)"):
        read_own(tmp_path / "a.npz")
