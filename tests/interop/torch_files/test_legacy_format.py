# SPDX-License-Identifier: Apache-2.0
"""Files of torch.save from before the zip: read like the others, refused like them."""

import pickle
import struct

import numpy as np
import pytest

from ldm_jax.files.errors import UnreadableFile
from ldm_jax.interop.torch_files import unpickler
from ldm_jax.interop.torch_files.legacy_format import MAGIC, PROTOCOL
from ldm_jax.interop.weight_files import read_weights
from tests.interop.torch_files.test_zip_format import ckpt, only, tensor

DATA = np.array([1.5, -2.0, 0.0, 7.25], np.float32)


def legacy(path, objects, keys=("0",), count=4, magic=MAGIC, little=True, cut=0):
    """Writes the five pickles and one storage, of which `cut` bytes are missing."""
    header = {"protocol_version": PROTOCOL, "little_endian": little, "type_sizes": {}}
    parts = [pickle.dumps(value, 2) for value in (magic, PROTOCOL, header)]
    parts += [objects, pickle.dumps(list(keys), 2), struct.pack("<q", count)]
    parts += [DATA.tobytes()]
    whole = b"".join(parts)
    path.write_bytes(whole[: len(whole) - cut])
    return path


def test_a_legacy_file_is_read(tmp_path):
    """Oracle: the bytes written, through a view of the storage."""
    pickled = only(tensor((2, 2), (1, 2)))
    read = read_weights(legacy(tmp_path / "a.pth", pickled))
    np.testing.assert_array_equal(read["a"], DATA.reshape(2, 2).T)


@pytest.mark.torch
def test_torchs_legacy_files_are_read(tmp_path):
    """Golden: what torch writes without the zip; views share a storage."""
    torch = pytest.importorskip("torch")
    base = torch.arange(24.0).reshape(4, 6)
    state = dict(whole=base, turned=base.t(), half=base.half(), scalar=torch.tensor(7))
    path = tmp_path / "a.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    read = read_weights(path)
    assert list(read) == list(state)
    for name, value in state.items():
        np.testing.assert_array_equal(read[name], value.numpy())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (dict(cut=4), "cut off"),
        (dict(cut=40), "damaged pickle"),
        (dict(count=5), "cut off or damaged"),
        (dict(keys=()), "not those of the tensors"),
        (dict(keys=("0", "1")), "not those of the tensors"),
        (dict(keys=({},)), "not those of the tensors"),
        (dict(magic=MAGIC + 1), "of another kind"),
        (dict(little=False), "little-endian"),
    ],
)
def test_a_damaged_legacy_file_is_refused(tmp_path, damage, message):
    path = legacy(tmp_path / "a.pth", only(tensor((4,), (1,))), **damage)
    with pytest.raises(UnreadableFile, match=message):
        read_weights(path)


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (only(b"cos\nsystem\n(X\x02\0\0\0lstR"), "asks for os.system"),
        (only(tensor((4,), (2,))), "reaches out of its storage"),
        (only(tensor((4,), (1,), numel=-1)), "unknown storage"),
        (only(tensor((1,), (1,), numel=1 << 62)), "cut off"),
    ],
)
def test_a_legacy_file_that_names_other_functions_is_refused(
    tmp_path, objects, message
):
    with pytest.raises(UnreadableFile, match=message):
        read_weights(legacy(tmp_path / "a.pth", objects))


def test_a_length_beyond_the_file_takes_no_memory(tmp_path):
    """A binary string that claims 2**62 bytes, where the first pickle begins."""
    path = tmp_path / "a.pth"
    path.write_bytes(
        b"\x80\x02\x8a\x0a" + b"0" * 10 + b"\x8e" + struct.pack("<Q", 2**62)
    )
    with pytest.raises(UnreadableFile, match="damaged pickle"):
        read_weights(path)


@pytest.mark.parametrize("write", [legacy, ckpt])
def test_a_pickle_without_end_is_refused(tmp_path, monkeypatch, write):
    """A hundred views of one storage take as long as a hundred tensors."""
    views = b"".join(
        pickle.dumps(f"t{i}", 2)[2:-1] + tensor((2, 2), (1, 2)) + b"s"
        for i in range(100)
    )
    path = write(tmp_path / "a.pth", b"\x80\x02}" + views + b".")
    assert len(read_weights(path)) == 100
    monkeypatch.setattr(unpickler, "MAX_INSTRUCTIONS", 2_000)
    with pytest.raises(
        UnreadableFile, match=r"a\.pth must be a pickle of at most 2,000"
    ):
        read_weights(path)
