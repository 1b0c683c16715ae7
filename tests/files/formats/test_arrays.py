# SPDX-License-Identifier: Apache-2.0
"""Arrays of numbers and texts are read as NumPy reads them; nothing else is."""

import io
import zipfile

import numpy as np
import pytest

from ldm_jax.files.errors import UnreadableFile
from ldm_jax.files.formats import arrays
from ldm_jax.files.formats.arrays import Npz, parse_npy, read_npz, write_npz

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.asfortranarray(np.arange(6, dtype=">i8").reshape(2, 3)),
    "c": np.array('{"x": 1}'),
    "d": np.zeros((0, 5), np.uint8),
    "e": np.float64(3),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_read_as_numpy_reads_them(tmp_path, save):
    save(tmp_path / "a.npz", **ARRAYS)
    read = read_npz(tmp_path / "a.npz", skip={"e"})
    with np.load(tmp_path / "a.npz") as expected:
        assert set(read) == set(expected) - {"e"}
        for name, array in read.items():
            assert array.dtype == expected[name].dtype
            np.testing.assert_array_equal(array, expected[name])


@pytest.mark.parametrize("is_compressed", [False, True])
def test_numpy_reads_what_is_written_array_by_array(tmp_path, is_compressed):
    pairs = ((name, np.asarray(x)) for name, x in ARRAYS.items())
    write_npz(tmp_path / "a.npz", pairs, 100, is_compressed)
    with np.load(tmp_path / "a.npz") as read:
        assert set(read) == set(ARRAYS)
        for name, array in ARRAYS.items():
            assert read[name].dtype == array.dtype
            np.testing.assert_array_equal(read[name], array)


def test_a_long_array_is_read_in_batches(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(20).reshape(10, 2))
    with Npz(tmp_path / "a.npz") as stored:
        assert stored.header("x").shape == (10, 2)
        batches = list(stored.batches("x", 4))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate(batches).ravel(), np.arange(20))


def npy(header: str, data: bytes = b"", version=(1, 0)) -> bytes:
    """An .npy file of a header that NumPy would not write."""
    text = header.encode()
    size = len(text).to_bytes(2 if version == (1, 0) else 4, "little")
    return b"\x93NUMPY" + bytes(version) + size + text + data


def _header(descr, shape):
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"


def _pickled() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], object), allow_pickle=True)
    return buffer.getvalue()


HOSTILE = {
    "objects": (_pickled(), "numbers or texts"),
    "objects within": (
        npy(_header("[('a', '<f4'), ('b', '|O')]", (1,)), bytes(12)),
        "numbers or texts",
    ),
    "a structure": (npy(_header("[('a', '<f4')]", (1,)), bytes(4)), "numbers or texts"),
    "too large": (npy(_header("'<f4'", (10**12,)), bytes(4)), "takes 4,000,000"),
    "overflow": (npy(_header("'<f4'", (2**62, 4)), bytes(4)), "takes"),
    "negative": (npy(_header("'<f4'", (-1, -1)), bytes(4)), "a shape of"),
    "huge texts": (
        npy(_header("'<U900000000'", ()), bytes(4)),
        "takes 3,600|not a valid dtype",
    ),
    "parentheses": (npy("(" * 9000), "must be readable|not a NumPy"),
    "a long header": (npy(" " * 20_000), "too long"),
    "a call": (npy("{'descr': exit(), 'shape': ()}"), "must be readable|not a NumPy"),
    "another version": (npy("{}", version=(9, 9)), "must be readable|not a NumPy"),
    "cut": (npy(_header("'<f4'", (4,)), bytes(15)), "takes 16 bytes, the file has 15"),
    "nothing": (b"", "must be readable|not a NumPy"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_an_npy_of_anything_else_is_refused(kind):
    data, words = HOSTILE[kind]
    with pytest.raises(UnreadableFile, match=rf"x\.npy.*({words})"):
        parse_npy(data, "x.npy")


@pytest.mark.parametrize("kind", HOSTILE)
def test_an_npz_of_anything_else_is_refused(tmp_path, kind):
    data, words = HOSTILE[kind]
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", data)
    with pytest.raises(UnreadableFile, match=rf"a\.npz, array x.*({words})"):
        read_npz(tmp_path / "a.npz")


def test_a_compressed_array_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("ldm_jax.files.formats.arrays.MAX_INFLATED_BYTES", 1000)
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(1000))
    np.savez(tmp_path / "b.npz", x=np.zeros(1000))
    assert read_npz(tmp_path / "b.npz")["x"].shape == (1000,)
    with pytest.raises(UnreadableFile, match=r"member x\.npy has 8128 bytes"):
        read_npz(tmp_path / "a.npz")


def test_flipped_bytes_of_an_array_are_noticed(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(1000))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[4000] ^= 1
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(UnreadableFile, match="CRC"):
        read_npz(tmp_path / "a.npz")
    with pytest.raises(UnreadableFile, match="CRC"), Npz(tmp_path / "a.npz") as stored:
        list(stored.batches("x", 300))


def test_more_arrays_than_any_model_has_are_refused(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", **{f"t{i}": np.zeros(0) for i in range(5)})
    monkeypatch.setattr(arrays, "MAX_ARRAYS", 4)
    with pytest.raises(UnreadableFile, match=r"a\.npz must hold at most 4 arrays"):
        read_npz(tmp_path / "a.npz")
