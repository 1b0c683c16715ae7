# SPDX-License-Identifier: Apache-2.0
"""Files of weights are read completely or refused, and written atomically."""

import json
import os
import struct
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from flax import serialization

from ldm_jax.files.errors import UnreadableFile
from ldm_jax.files.formats import arrays
from ldm_jax.files.formats.structured import read_json
from ldm_jax.interop.safetensors import read_safetensors, write_safetensors
from ldm_jax.interop.stored import HalfPrecision
from ldm_jax.interop.torch_files.writer import write_ckpt
from ldm_jax.interop.weight_files import read_weights

TENSORS = {
    "matrix": np.arange(12, dtype=np.float32).reshape(3, 4),
    "transposed": np.arange(6, dtype=np.float64).reshape(2, 3).T,
    "half": np.linspace(0, 1, 7, dtype=np.float16),
    "brain": np.linspace(0, 1, 5).astype(ml_dtypes.bfloat16),
    "scalar": np.array(3.5, np.float32),
    "empty": np.zeros((0, 3), np.float32),
    "whole": np.arange(4),
    "truth": np.array([True, False]),
}


def raw_safetensors(path, header, data=b""):
    """Writes a file from a header (dict, or bytes as they are) and its data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(shape, first, last, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


@pytest.mark.parametrize("wrap", [dict, HalfPrecision])
def test_a_writer_of_views_needs_the_memory_of_one_tensor(tmp_path, wrap):
    """Weights of another layout are views of ours, copied one at a time."""
    ours = np.ones((256, 512, 8), np.float32)
    tensors = wrap({name: ours.T for name in "abc"})
    tracemalloc.start()
    write_safetensors(tmp_path / "w.safetensors", tensors)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.1 * ours.nbytes


def test_safetensors_come_back_bit_for_bit(tmp_path):
    """Identity: every dtype, views, scalars and empty arrays."""
    write_safetensors(tmp_path / "a.safetensors", TENSORS)
    read = read_weights(tmp_path / "a.safetensors")
    assert set(read) == set(TENSORS)
    for name, array in TENSORS.items():
        assert read[name].dtype == array.dtype and read[name].shape == array.shape
        np.testing.assert_array_equal(read[name], array)


def test_safetensors_are_those_of_the_library(tmp_path):
    """Golden: the safetensors package reads ours, and we read what it writes."""
    library = pytest.importorskip("safetensors.numpy")
    tensors = {k: np.ascontiguousarray(v) for k, v in TENSORS.items() if k != "brain"}
    write_safetensors(tmp_path / "own.safetensors", tensors)
    library.save_file(tensors, tmp_path / "other.safetensors")
    expected = library.load_file(tmp_path / "own.safetensors")
    actual = read_weights(tmp_path / "other.safetensors")
    for name, array in tensors.items():
        np.testing.assert_array_equal(expected[name], array)
        np.testing.assert_array_equal(actual[name], array)


BAD_HEADERS = {
    "length past the end": b"",
    "not JSON": b"{nonsense",
    "a list": b"[1, 2]",
    "a name twice": b'{"a": {}, "a": {}}',
    "no dtype": {"a": {"shape": [1], "data_offsets": [0, 4]}},
    "an unknown dtype": {"a": entry([1], 0, 4, "F4")},
    "a negative size": {"a": entry([-1], 0, 4)},
    "a size that is not a whole number": {"a": entry([1.0], 0, 4)},
    "a shape of another size": {"a": entry([2], 0, 4)},
    "offsets past the end": {"a": entry([2**40], 0, 2**42)},
    "overlapping tensors": {"a": entry([1], 0, 4), "b": entry([1], 2, 6)},
    "a gap": {"a": entry([1], 4, 8)},
    "bytes that belong to nothing": {"a": entry([0], 0, 0)},
}


@pytest.mark.parametrize("what", sorted(BAD_HEADERS))
def test_damaged_safetensors_are_refused_in_one_line(tmp_path, what):
    path = raw_safetensors(tmp_path / "a.safetensors", BAD_HEADERS[what], b"\0" * 4)
    if what == "length past the end":
        path.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(UnreadableFile, match=r"a\.safetensors") as error:
        read_weights(path)
    assert "\n" not in str(error.value)


def test_a_cut_off_file_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, TENSORS)
    whole = path.read_bytes()
    for length in (0, 5, 40, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UnreadableFile):
            read_weights(path)


def test_a_plain_pickle_is_refused_unread(tmp_path):
    (tmp_path / "a.ckpt").write_bytes(b"\x80\x02cos\nsystem\n(S'touch x'\ntR.")
    with pytest.raises(UnreadableFile, match="plain pickle"):
        read_weights(tmp_path / "a.ckpt")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_weights(tmp_path / "nowhere.ckpt")


def shards(folder, weight_map):
    write_safetensors(folder / "part-1.safetensors", {"a": np.ones(2, np.float32)})
    write_safetensors(folder / "part-2.safetensors", {"b": np.ones(3, np.float32)})
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))


def test_shards_are_joined(tmp_path):
    shards(tmp_path, {"a": "part-1.safetensors", "b": "part-2.safetensors"})
    read = read_weights(tmp_path)
    assert {name: array.shape for name, array in read.items()} == {"a": (2,), "b": (3,)}


def test_an_index_is_opened_by_its_path_and_searched_by_key(tmp_path):
    shards(tmp_path, {"a": "part-1.safetensors", "b": "part-2.safetensors"})
    (index,) = tmp_path.glob("*.index.json")
    assert set(read_weights(index)) == {"a", "b"}
    for path in (index, tmp_path):
        with pytest.raises(UnreadableFile, match='holds no tensors at "c"'):
            read_weights(path, key="c")


def test_a_folder_of_several_models_is_refused_by_name(tmp_path):
    """As accelerate's save_state leaves it."""
    for name in ("model.safetensors", "model_1.safetensors"):
        write_safetensors(tmp_path / name, {"a": np.ones(2, np.float32)})
    names = r"several models: model\.safetensors, model_1\.safetensors; give the file"
    with pytest.raises(UnreadableFile, match=names):
        read_weights(tmp_path)


@pytest.mark.parametrize(
    "file", ["../part-1.safetensors", "/etc/passwd", "x/part-1.safetensors", "..", ""]
)
def test_an_index_may_not_leave_its_folder(tmp_path, file):
    inner = tmp_path / "inner"
    inner.mkdir()
    shards(inner, {"a": file})
    with pytest.raises(UnreadableFile, match="next to the index"):
        read_weights(inner)


def test_an_index_and_its_shards_must_agree(tmp_path):
    shards(tmp_path, {"a": "part-1.safetensors", "c": "part-2.safetensors"})
    with pytest.raises(UnreadableFile, match="differ"):
        read_weights(tmp_path)


def test_an_error_lists_the_weight_files_that_a_folder_lacks(tmp_path):
    with pytest.raises(UnreadableFile, match=r"diffusion_pytorch_model\.safetensors"):
        read_weights(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"a": np.ones(2, np.float32)})
    before = path.read_bytes()

    class Failing(dict):
        reads = 0

        def __getitem__(self, name):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_safetensors(path, Failing({"a": np.zeros(3, np.float32)}))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_arrays_that_no_format_holds_are_refused(tmp_path):
    with pytest.raises(TypeError, match="complex64"):
        write_safetensors(tmp_path / "a.safetensors", {"a": np.ones(1, np.complex64)})


@pytest.mark.parametrize("text", ["[1]", "{", "\x00"])
def test_json_that_is_no_object_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UnreadableFile, match=r"config\.json"):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors", "a.pth", "a.bin"])
@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!doctype html><title>Sign in</title>", "HTML page"),
        (b"", "is empty"),
    ],
)
def test_what_a_failed_download_leaves_is_named(tmp_path, name, start, words):
    (tmp_path / name).write_bytes(start)
    with pytest.raises(ValueError, match=rf"{name}.*{words}"):
        read_weights(tmp_path / name)


def test_weights_are_a_regular_file(tmp_path):
    os.mkfifo(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="is a FIFO"):
        read_weights(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("diffusion_pytorch_model.fp16.safetensors", "half precision"),
        ("model.fp16.safetensors", "half precision"),
        ("model.onnx", "ONNX"),
        ("__0_0.distcp", r"torch\.distributed\.checkpoint: convert it with"),
    ],
)
def test_a_folder_of_only_other_variants_is_named(tmp_path, name, words):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=rf"only {name} \({words}"):
        read_weights(tmp_path)


def test_weights_of_another_framework_are_named(tmp_path):
    (tmp_path / "tf_model.h5").write_bytes(b"\x85\xa1x")
    with pytest.raises(ValueError, match="it is of TensorFlow: get the PyTorch"):
        read_weights(tmp_path / "tf_model.h5")


def test_a_missing_file_of_weights_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there must be a file of weights"):
        read_safetensors(tmp_path / "model.safetensors")


def _shards_by_name(folder):
    write_safetensors(folder / "model.safetensors", {"t0": np.zeros(1)})
    places = {f"t{i}": "model.safetensors" for i in range(5)}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    return index


def _flax(folder):
    tree = {f"t{i}": np.zeros(0, np.float32) for i in range(5)}
    path = folder / "model.msgpack"
    path.write_bytes(serialization.msgpack_serialize(tree))
    return path


def _empty_tensors(write, name):
    def make(folder):
        write(folder / name, {f"t{i}": np.zeros(0, np.float32) for i in range(5)})
        return folder / name

    return make


@pytest.mark.parametrize(
    "make",
    [
        _empty_tensors(write_safetensors, "model.safetensors"),
        _empty_tensors(write_ckpt, "model.ckpt"),
        _shards_by_name,
        _flax,
    ],
    ids=["safetensors", "ckpt", "index", "msgpack"],
)
def test_more_tensors_than_any_model_has_are_refused(tmp_path, monkeypatch, make):
    """Each takes time, whatever its size: 200,000 empty ones took 16 seconds."""
    path = make(tmp_path)
    monkeypatch.setattr(arrays, "MAX_ARRAYS", 4)
    with pytest.raises(UnreadableFile, match="at most 4 arrays") as error:
        read_weights(path)
    assert str(path) in str(error.value)
