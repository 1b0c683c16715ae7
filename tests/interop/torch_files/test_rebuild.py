# SPDX-License-Identifier: Apache-2.0
"""Tensors are rebuilt by substitutes; objects that imitate tensors are refused."""

import collections
import pickle

import ml_dtypes
import numpy as np
import pytest

from ldm_jax.files.errors import UnreadableFile
from ldm_jax.interop.weight_files import read_weights
from tests.interop.torch_files.test_zip_format import NAME, PREFIX, Call, ckpt, tensor


def saved_by_torch(torch):
    """{how: what torch.save is given} for one tensor, and its values."""
    base = torch.arange(6.0).reshape(2, 3)
    tagged = torch.nn.Parameter(base.clone())
    tagged.is_bias = False
    with_state = base.clone()
    with_state.note = "x"
    rebuild = torch._utils

    class Subclass(torch.Tensor):
        pass

    device = (torch.float32, "xla:0", False)
    return base.numpy(), {
        "a parameter": torch.nn.Parameter(base),
        "a parameter with attributes": tagged,
        "a tensor with attributes": with_state,
        "a subclass": base.as_subclass(Subclass),
        "XLA, from NumPy": Call(
            rebuild._rebuild_device_tensor_from_numpy, (base.numpy(), *device)
        ),
        "XLA, from NumPy in Fortran's order": Call(
            rebuild._rebuild_device_tensor_from_numpy,
            (np.asfortranarray(base.numpy()), *device),
        ),
        "XLA, from the CPU": Call(
            rebuild._rebuild_device_tensor_from_cpu_tensor, (base, *device)
        ),
        "a parameter on XLA": Call(
            rebuild._rebuild_parameter,
            (
                Call(
                    rebuild._rebuild_device_tensor_from_numpy, (base.numpy(), *device)
                ),
                True,
                collections.OrderedDict(),
            ),
        ),
        "an array": base.numpy(),
    }


@pytest.mark.torch
@pytest.mark.parametrize("legacy", [False, True])
def test_the_data_of_tensors_of_other_makers_is_read(tmp_path, legacy):
    """Golden: torch.save, in both formats."""
    torch = pytest.importorskip("torch")
    values, cases = saved_by_torch(torch)
    cases = {n: x for n, x in cases.items() if n != "a subclass"}  # a local class
    torch.save(
        {"state_dict": cases},
        tmp_path / "a.ckpt",
        _use_new_zipfile_serialization=not legacy,
    )
    weights = read_weights(tmp_path / "a.ckpt")
    assert list(weights) == list(cases)
    for name in cases:
        np.testing.assert_array_equal(weights[name], values, err_msg=name)


@pytest.mark.torch
def test_dtypes_without_a_storage_class_are_read(tmp_path):
    """Golden: torch's float8 and unsigned integers."""
    torch = pytest.importorskip("torch")
    values = torch.tensor([0.5, 1.0, -3.0])
    tensors = {
        "float8": values.to(torch.float8_e4m3fn),
        "view": values.to(torch.float8_e5m2)[1:],
        "uint16": torch.tensor([1, 60000], dtype=torch.uint16),
    }
    torch.save(tensors, tmp_path / "a.ckpt")
    weights = read_weights(tmp_path / "a.ckpt")
    assert weights["float8"].dtype == ml_dtypes.float8_e4m3fn
    np.testing.assert_array_equal(np.float32(weights["float8"]), values)
    np.testing.assert_array_equal(np.float32(weights["view"]), values[1:])
    np.testing.assert_array_equal(weights["uint16"], [1, 60000])


@pytest.mark.torch
def test_tensors_without_plain_data_are_named(tmp_path):
    """A missing tensor would be reported as missing, which it is not."""
    torch = pytest.importorskip("torch")
    dense = torch.eye(3)
    cases = {
        "sparse": dense.to_sparse(),
        "meta": torch.empty(3, device="meta"),
        "quantized": torch.quantize_per_tensor(dense, 0.1, 0, torch.qint8),
    }
    for name, value in cases.items():
        torch.save({"fine": dense, name: value}, tmp_path / "a.ckpt")
        with pytest.raises(UnreadableFile, match=f'"{name}" is a tensor without'):
            read_weights(tmp_path / "a.ckpt")


FLOAT32 = b"(X\x02\0\0\0f4I00\nI01\ntR(K\x03X\x01\0\0\0<NNNK\0K\0K\0tb"
OBJECT = b"(X\x02\0\0\0O8I00\nI01\ntR(K\x03X\x01\0\0\0|NNNK\0K\0K?tb"


def array(dtype=FLOAT32, count=4, size=16):
    """Opcodes of a tensor that is rebuilt from an array of NumPy."""
    data = b"\0" * size
    return b"".join(
        [
            b"ctorch._utils\n_rebuild_device_tensor_from_numpy\n(",
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0tU\x01btR",
            b"(K\x01(K" + bytes([count]) + b"tcnumpy\ndtype\n" + dtype,
            b"I00\nB" + size.to_bytes(4, "little") + data + b"tb",
            b"cnumpy\nfloat32\nX\x03\0\0\0xlaI00\ntR",
        ]
    )


POSERS = {
    # An OrderedDict with the attributes of a storage.
    "an object with attributes": b"ctorch._utils\n_rebuild_tensor_v2\n("
    b"ccollections\nOrderedDict\n)R}(X\x06\0\0\0offsetK\0X\x05\0\0\0numelK\x04ub"
    b"K\0(K\x04t(K\x01tI00\nNtR",
    "a tuple": b"ctorch._utils\n_rebuild_tensor_v2\n((K\0K\0K\x04tK\0(K\x04t(K\x01t"
    b"I00\nNtR",
    "an array that is too short": array(size=8),
}


@pytest.mark.parametrize("what", sorted(POSERS))
def test_what_poses_as_a_tensor_is_refused(tmp_path, what):
    """Exact types: nothing of the file decides where data is read from."""
    pickled = PREFIX + NAME + POSERS[what] + b"s."
    with pytest.raises(UnreadableFile, match=r"a\.ckpt"):
        read_weights(ckpt(tmp_path / "a.ckpt", pickled))


def test_arrays_of_objects_are_no_weights(tmp_path):
    """Their bytes would be taken for pointers."""
    pickled = PREFIX + NAME + array(OBJECT, 2) + b"s."
    with pytest.raises(UnreadableFile, match="no tensors"):
        read_weights(ckpt(tmp_path / "a.ckpt", pickled))


def test_bytes_are_read_as_old_and_new_protocols_write_them(tmp_path):
    """Identity: arrays pickled by Python at protocols 2 and 4."""
    values = np.arange(300, dtype=np.float64)
    for protocol in (2, 4):
        path = ckpt(tmp_path / "a.ckpt", pickle.dumps({"x": values}, protocol))
        np.testing.assert_array_equal(read_weights(path)["x"], values)


def test_a_tensor_of_a_known_form_still_opens(tmp_path):
    """The opcodes that the refusals above are made of."""
    pickled = PREFIX + NAME + tensor((4,), (1,)) + b"s."
    assert read_weights(ckpt(tmp_path / "a.ckpt", pickled))["a"].shape == (4,)
    pickled = PREFIX + NAME + array() + b"s."
    assert read_weights(ckpt(tmp_path / "a.ckpt", pickled))["a"].shape == (4,)
