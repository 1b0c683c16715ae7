# SPDX-License-Identifier: Apache-2.0
"""PyTorch checkpoints are read without PyTorch, and without running their code."""

import collections
import io
import os
import pickle
import resource
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from ldm_jax.files.errors import UnreadableFile
from ldm_jax.interop.torch_files.writer import write_ckpt
from ldm_jax.interop.weight_files import read_weights
from tests.interop.test_weight_files import TENSORS

PREFIX = b"\x80\x02}"  # PROTO 2, EMPTY_DICT
NAME = b"X\x01\0\0\0a"  # "a"


def ckpt(path, pickled, data=b"\0" * 16, extra=(), compression=zipfile.ZIP_STORED):
    """Writes a zip as torch.save does, around a hand-made pickle."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", data)
        for name, value in extra:
            archive.writestr(name, value)
    return path


def tensor(shape, strides, offset=0, numel=4, key=b"0", storage=b"FloatStorage"):
    """Opcodes of a tensor."""

    def push(value):
        return pickle.dumps(value, 2)[2:-1]

    return b"".join(
        [
            *(b"ctorch._utils\n_rebuild_tensor_v2\n((", push("storage")),
            *(b"ctorch\n" + storage + b"\n", push(key.decode()), push("cpu")),
            *(push(numel), b"tQ", push(offset), push(shape), push(strides)),
            *(b"\x89ccollections\nOrderedDict\n)RtR",),
        ]
    )


def only(value):
    """A pickle of {"a": value}."""
    return PREFIX + NAME + value + b"s."


def test_our_checkpoints_come_back_bit_for_bit(tmp_path):
    """Identity: every dtype, views, scalars and empty arrays."""
    write_ckpt(tmp_path / "a.ckpt", TENSORS)
    read = read_weights(tmp_path / "a.ckpt")
    assert list(read) == list(TENSORS)
    for name, array in TENSORS.items():
        assert read[name].dtype == array.dtype and read[name].shape == array.shape
        np.testing.assert_array_equal(read[name], array)


@pytest.mark.torch
def test_torch_opens_our_checkpoints_safely(tmp_path):
    """Golden: torch.load(weights_only=True)."""
    torch = pytest.importorskip("torch")
    write_ckpt(tmp_path / "a.ckpt", TENSORS)
    loaded = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    assert list(loaded) == list(TENSORS)
    for name, array in TENSORS.items():
        as_numpy = loaded[name].double().numpy()
        np.testing.assert_array_equal(as_numpy, array.astype(np.float64))
        assert loaded[name].shape == array.shape


@pytest.mark.torch
def test_a_training_checkpoint_of_torch_is_read(tmp_path):
    """Golden: views, parameters and shared storages, amid trainer objects."""
    torch = pytest.importorskip("torch")
    base = torch.arange(24.0).reshape(4, 6)
    state = collections.OrderedDict(
        whole=base,
        column=base[:, 2],
        turned=base.t(),
        half=base.half(),
        brain=base.bfloat16(),
        parameter=torch.nn.Parameter(base + 1),
        scalar=torch.tensor(7),
    )
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    whole = {
        "epoch": 3,
        "state_dict": state,
        "optimizer_states": [optimizer.state_dict()],
        "callbacks": {
            torch.nn.Linear: {"best": np.float32(1.5), "dtype": torch.float16}
        },
        "hyper_parameters": collections.defaultdict(list, a=[1], b={2, 3}),
    }
    torch.save(whole, tmp_path / "a.ckpt")
    read = read_weights(tmp_path / "a.ckpt")
    assert list(read) == list(state)
    for name, value in state.items():
        expected = value.detach().double().numpy()
        np.testing.assert_array_equal(np.asarray(read[name], np.float64), expected)


class Call:
    """Pickles as a call of whatever it is given."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def _evil(canary):
    touch = f"touch {canary}"
    code = f"open({str(canary)!r}, 'w')"
    return {
        "os.system": Call(os.system, (touch,)),
        "eval": Call(eval, (code,)),
        "exec": Call(exec, (code,)),
        "open": Call(open, (str(canary), "w")),
        "getattr": Call(getattr, (os, "system")),
        "subprocess": Call(subprocess.Popen, (["touch", str(canary)],)),
        "nested": {"x": [(Call(os.system, (touch,)),)]},
    }


@pytest.mark.parametrize("name", sorted(_evil("x")))
def test_a_malicious_pickle_is_refused_and_runs_nothing(tmp_path, name):
    """F19: the canary stays absent, and the error names the function."""
    canary = tmp_path / "canary"
    if name == "getattr":  # a module cannot be pickled; ask for the function alone
        pickled = b"\x80\x02cbuiltins\ngetattr\n."
    else:
        pickled = pickle.dumps(_evil(canary)[name], protocol=2)
    with pytest.raises(UnreadableFile, match="nothing was run"):
        read_weights(ckpt(tmp_path / "a.ckpt", pickled))
    assert not canary.exists()


def test_objects_of_known_trainers_do_nothing(tmp_path):
    """Inert: called, given state, appended to, and nothing of the file is imported."""
    evil_state = b"}X\x03\0\0\0keyX\x05\0\0\0valuesb"
    stub = b"cpytorch_lightning.nothing\nHere\n)\x81" + evil_state
    called = b"ctorch.nowhere\nload\n(X\x01\0\0\0xtR(K\x01K\x02e"
    numbered = PREFIX + NAME + tensor((4,), (1,)) + b"s"
    pickled = numbered + b"X\x01\0\0\0b" + stub + b"sX\x01\0\0\0c" + called + b"s."
    read = read_weights(ckpt(tmp_path / "a.ckpt", pickled))
    assert list(read) == ["a"]
    assert not {"pytorch_lightning", "torch.nowhere"} & set(sys.modules)


BAD_TENSORS = {
    "past its storage": tensor((5,), (1,)),
    "offset past its storage": tensor((2,), (1,), offset=3),
    "negative offset": tensor((2,), (1,), offset=-1),
    "negative stride": tensor((2,), (-1,), offset=1),
    "huge stride": tensor((2,), (2**60,)),
    "repeated elements": tensor((2**40,), (0,)),
    "shape and strides differ": tensor((2, 2), (1,)),
    "size that is not a number": tensor(("x",), (1,)),
    "storage larger than its file": tensor((4,), (1,), numel=2**40),
    "storage of negative size": tensor((4,), (1,), numel=-4),
    "missing storage": tensor((4,), (1,), key=b"9"),
    "unknown storage type": tensor((4,), (1,), storage=b"Size"),
}


@pytest.mark.parametrize("what", sorted(BAD_TENSORS))
def test_a_tensor_with_wrong_sizes_is_refused(tmp_path, what):
    """F20: views outside of the storage, negative strides, storages that are not."""
    path = ckpt(tmp_path / "a.ckpt", only(BAD_TENSORS[what]))
    with pytest.raises(UnreadableFile, match=r"a\.ckpt") as error:
        read_weights(path)
    assert "\n" not in str(error.value)


BAD_PICKLES = {
    "empty": b"",
    "cut off": only(tensor((4,), (1,)))[:-20],
    "noise": bytes(range(256)),
    "a huge memo": PREFIX + b"r\xff\xff\xff\xff.",
    "a huge byte array": b"\x80\x05\x96" + struct.pack("<Q", 2**50) + b".",
    "an extension": PREFIX + b"\x82\x01.",
    "not a dict": b"\x80\x02K\x01.",
    "no tensors": PREFIX + b".",
    "a dtype's state": only(b"ctorch\nFloatStorage\n(K\x03tb"),
}


@pytest.mark.parametrize("what", sorted(BAD_PICKLES))
def test_a_damaged_pickle_is_refused(tmp_path, what):
    with pytest.raises(UnreadableFile, match=r"a\.ckpt"):
        read_weights(ckpt(tmp_path / "a.ckpt", BAD_PICKLES[what]))


def test_a_bomb_is_refused_before_memory_is_taken(tmp_path):
    """F20: 1029 times its size, compressed; torch.save never compresses."""
    path = ckpt(
        tmp_path / "a.ckpt",
        only(tensor((4,), (1,))),
        data=b"\0" * 2**26,
        compression=zipfile.ZIP_DEFLATED,
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UnreadableFile, match="compressed"):
        read_weights(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**14  # KiB


def test_a_zip_with_wrong_sizes_is_refused(tmp_path):
    path = ckpt(tmp_path / "a.ckpt", only(tensor((4,), (1,))))
    whole = path.read_bytes()
    size = struct.pack("<II", 16, 16)
    at = whole.rindex(size)  # of data/0 in the central directory
    huge = struct.pack("<II", 2**31, 2**31)
    path.write_bytes(whole[:at] + huge + whole[at + 8 :])
    with pytest.raises(UnreadableFile, match="claims"):
        read_weights(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_entry_that_occurs_twice_is_refused(tmp_path):
    extra = [("archive/data/0", b"\1" * 16)]
    path = ckpt(tmp_path / "a.ckpt", only(tensor((4,), (1,))), extra=extra)
    with pytest.raises(UnreadableFile, match="twice"):
        read_weights(path)


def test_a_zip_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.ckpt", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(UnreadableFile, match="found 0"):
        read_weights(tmp_path / "a.ckpt")


def test_big_endian_files_are_refused(tmp_path):
    extra = [("archive/byteorder", b"big")]
    path = ckpt(tmp_path / "a.ckpt", only(tensor((4,), (1,))), extra=extra)
    with pytest.raises(UnreadableFile, match="little-endian"):
        read_weights(path)


def test_a_file_cut_off_anywhere_is_refused(tmp_path):
    path = tmp_path / "a.ckpt"
    write_ckpt(path, TENSORS)
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(UnreadableFile):
            read_weights(path)


def test_a_file_with_flipped_bytes_never_escapes_as_another_error(tmp_path):
    """Every damage ends in arrays or in a UnreadableFile."""
    write_ckpt(tmp_path / "whole.ckpt", TENSORS)
    whole = (tmp_path / "whole.ckpt").read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "a.ckpt"
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            for array in read_weights(path).values():
                array.sum()
        except UnreadableFile:
            pass


def test_a_failed_write_leaves_nothing(tmp_path):
    class Failing(dict):
        def __getitem__(self, name):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_ckpt(tmp_path / "a.ckpt", Failing({"a": np.zeros(3, np.float32)}))
    assert not list(tmp_path.iterdir())


def test_what_pytorch_has_no_storage_for_is_refused(tmp_path):
    with pytest.raises(TypeError, match="uint32"):
        write_ckpt(tmp_path / "a.ckpt", {"a": np.ones(1, np.uint32)})


def test_pickles_of_other_protocols_are_read(tmp_path):
    """torch.save(pickle_protocol=4) frames and memoizes; names are pushed, not read."""
    pickled = io.BytesIO()
    pickle.Pickler(pickled, 4).dump({"state_dict": {"x": 1}})
    with pytest.raises(UnreadableFile, match="no tensors"):
        read_weights(ckpt(tmp_path / "a.ckpt", pickled.getvalue()))


def doubled(depth: int) -> bytes:
    """Opcodes of a tuple that holds one tuple twice, `depth` times over."""
    return b")" + b"2\x86" * depth


def forged_storage(dtype: bytes) -> bytes:
    """Opcodes of an object that has a storage's attributes, set by BUILD."""
    attributes = b"}X\x06\0\0\0offsetK\0sX\x05\0\0\0dtype" + dtype
    attributes += b"sX\x05\0\0\0numelK\x04s"
    return b"ccollections\nOrderedDict\n)R" + attributes + b"b"


REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n("
TAIL = b"K\0K\x01\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR"
OBJECTS = b"}X\x05\0\0\0names]X\x01\0\0\0aasX\x07\0\0\0formats]X\x01\0\0\0Oas"


@pytest.mark.parametrize(
    "storage",
    [
        forged_storage(OBJECTS),
        forged_storage(b"X\x01\0\0\0O"),
        b"cnumpy\nnull\n)R}X\x06\0\0\0offsetK\0sb",  # a stub with attributes
        b"(K\0X\x01\0\0\0OK\x04t",  # a tuple of its fields
        b"X\x07\0\0\0storage",
        b"N",
    ],
    ids=["dict of a dtype", "dict of a name", "stub", "tuple", "text", "nothing"],
)
def test_nothing_but_a_storage_of_the_file_is_taken_for_one(tmp_path, storage):
    """NumPy would read pointers from a file whose "dtype" holds objects."""
    path = ckpt(tmp_path / "a.ckpt", only(REBUILD + storage + TAIL))
    with pytest.raises(UnreadableFile, match="needs a storage of the file"):
        read_weights(path)


def test_attributes_of_a_state_dict_are_ignored(tmp_path):
    """PyTorch sets `_metadata` by BUILD."""
    state = b"}X\x09\0\0\0_metadata}s"
    pickled = b"\x80\x02ccollections\nOrderedDict\n)R(" + NAME + tensor((4,), (1,))
    pickled += b"u" + state + b"b."
    assert list(read_weights(ckpt(tmp_path / "a.ckpt", pickled))) == ["a"]


@pytest.mark.parametrize(
    "attack",
    [
        b"}" + doubled(60) + b"K\0s",
        b"}(" + doubled(60) + b"K\0u",
        b"(" + doubled(60) + b"K\0d",
        b"\x8f(" + doubled(60) + b"\x90",
        b"(" + doubled(60) + b"\x91",
        b"ccollections\nOrderedDict\n(](" + doubled(60) + b"K\0\x86etR",
        b"ccollections\nOrderedDict\n(](](" + doubled(60) + b"K\0eetR",
    ],
    ids=["SETITEM", "SETITEMS", "DICT", "ADDITEMS", "FROZENSET", "pairs", "lists"],
)
def test_a_key_that_takes_for_ever_to_hash_is_refused(tmp_path, attack):
    """If one were hashed, this test would not end."""
    path = ckpt(tmp_path / "a.ckpt", b"\x80\x04" + attack + b".")
    with pytest.raises(UnreadableFile, match=r"a\.ckpt") as error:
        read_weights(path)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "shape", [doubled(60), b"(" + b"K\1" * 99 + b"t", b"X\1\0\0\0x"]
)
def test_errors_of_odd_shapes_are_bounded(tmp_path, shape):
    pid = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\4tQ"
    path = ckpt(
        tmp_path / "a.ckpt", only(REBUILD + pid + b"K\0" + shape + shape + b"tR")
    )
    with pytest.raises(UnreadableFile, match="all must be whole") as error:
        read_weights(path)
    assert len(str(error.value)) < 1500


@pytest.mark.parametrize(
    "pid", [doubled(60), b"X\1\0\0\0x", b"(X\7\0\0\0storageNNNNt", b"N"]
)
def test_a_storage_by_another_name_is_refused(tmp_path, pid):
    path = ckpt(tmp_path / "a.ckpt", only(pid + b"Q"))
    with pytest.raises(UnreadableFile, match="unknown storage"):
        read_weights(path)
