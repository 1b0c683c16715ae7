# SPDX-License-Identifier: Apache-2.0
"""Replaces the functions that rebuild tensors and arrays from a pickle.

No code of PyTorch or of NumPy's pickling runs. The arguments are not trusted, so only
exact types are accepted, and a pickle cannot set attributes of any object here.
"""

import math
import pathlib
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from ldm_jax.files.errors import UnreadableFile, shown
from ldm_jax.interop.stored import Stored
from ldm_jax.interop.torch_files.unpickler import Function, Inert

STORAGES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
# Storages whose tensors name another dtype, or are not read.
STORAGES_OF_OTHERS = {
    "UntypedStorage": np.dtype("u1"),
    "QInt8Storage": np.dtype("i1"),
    "QUInt8Storage": np.dtype("u1"),
    "QInt32Storage": np.dtype("<i4"),
    "ComplexFloatStorage": np.dtype("<c8"),
    "ComplexDoubleStorage": np.dtype("<c16"),
}
ALL_STORAGES = STORAGES | STORAGES_OF_OTHERS
# Dtypes of PyTorch without a storage class.
TORCH_DTYPES = {
    "uint16": np.dtype("<u2"),
    "uint32": np.dtype("<u4"),
    "uint64": np.dtype("<u8"),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
}
# Of an axis, in elements, and of axes: NumPy's own bounds.
MAX_SIZE, MAX_AXES = 2**63, 64
NUMPY_DTYPES = {
    name: np.dtype(f"<{name}" if name[-1] != "1" else name)
    for name in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1")
}


class StorageType(str):
    """Name of a storage class."""

    __slots__ = ()


class TorchDtype(str):
    """Name of a dtype of PyTorch, a key of TORCH_DTYPES."""

    __slots__ = ()


class Storage(NamedTuple):
    """A storage in the file: offset in bytes, dtype, number of elements."""

    offset: int
    dtype: np.dtype
    numel: int


class NumpyDtype:
    """A dtype of NumPy in the file; only plain little-endian numbers have one."""

    __slots__ = ("name",)

    def __init__(self, name: Any, *_):
        self.name = name if type(name) is str else None

    def __setstate__(self, state: Any) -> None:
        """Checks the byte order, the second entry of NumPy's state."""
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", "|"):
            self.name = None

    def dtype(self) -> np.dtype | None:
        """Returns the dtype, None for one that is not read."""
        return NUMPY_DTYPES.get(self.name or "")


class NumpyArray:
    """An array of NumPy in the file, whose bytes are in the pickle itself."""

    __slots__ = ("value",)

    def __init__(self, *_):
        self.value = None

    def __setstate__(self, state: Any) -> None:
        """Makes the array of NumPy's state: (1, shape, dtype, in Fortran order, data).

        Raises:
          ValueError: the entries do not go together.
        """
        _, shape, dtype, is_fortran, data = state
        known = dtype.dtype() if type(dtype) is NumpyDtype else None
        if known is None:
            return  # objects, texts, records: not weights
        whole = type(shape) is tuple and len(shape) <= MAX_AXES
        whole = whole and all(type(n) is int and 0 <= n < MAX_SIZE for n in shape)
        if not whole or type(data) is not bytes:
            raise ValueError("an array of NumPy has no shape or no data")
        if math.prod(shape) * known.itemsize != len(data):
            raise ValueError(
                f"an array of shape {shape} and dtype {known} has {len(data)} bytes"
            )
        order = "F" if is_fortran is True else "C"
        self.value = np.frombuffer(data, known).reshape(shape, order=order)


def reconstruct(*_) -> NumpyArray:
    """Replaces `numpy.core.multiarray._reconstruct`; the state comes later."""
    return NumpyArray()


def encode(text: Any, encoding: Any = "utf-8") -> Any:
    """Replaces `_codecs.encode`, by which old protocols write bytes."""
    if type(text) is str and encoding in ("latin1", "latin-1"):
        return text.encode("latin1")
    return Inert()


class Unreadable(NamedTuple):
    """A tensor whose data is not read; `function` names what would rebuild it."""

    function: str


class Rebuilder:
    """The functions of `torch._utils` that rebuild tensors, for one file."""

    def __init__(self, path: pathlib.Path):
        self._path = path

    def functions(self) -> dict[tuple[str, str], Function]:
        """Returns {(module, name): stand-in}."""
        names = {
            ("_utils", "_rebuild_tensor"): self.tensor,
            ("_utils", "_rebuild_tensor_v2"): self.tensor,
            ("_utils", "_rebuild_tensor_v3"): self.tensor_of_bytes,
            ("_utils", "_rebuild_parameter"): _first,
            ("_utils", "_rebuild_parameter_with_state"): _first,
            ("_utils", "_rebuild_xla_tensor"): _first,
            ("_utils", "_rebuild_device_tensor_from_numpy"): _first,
            ("_utils", "_rebuild_device_tensor_from_cpu_tensor"): _first,
            ("_tensor", "_rebuild_from_type"): self.subclass,
            ("_tensor", "_rebuild_from_type_v2"): self.subclass,
        }
        return {
            (f"torch.{module}", name): Function(function)
            for (module, name), function in names.items()
        }

    def tensor(
        self, storage: Storage, offset: int, shape: tuple, strides: tuple, *_
    ) -> Stored:
        """Places a tensor in its storage; offset and strides count elements."""
        if type(storage) is not Storage:  # nothing that only has its attributes
            raise UnreadableFile(
                f"{self._path}: a tensor needs a storage of the file: got "
                f"{shown(storage)}."
            )
        whole = all(type(sizes) in (tuple, list) for sizes in (shape, strides))
        whole = whole and len(shape) == len(strides) <= MAX_AXES
        sizes = (offset, *shape, *strides) if whole else (None,)
        if not all(type(n) is int and 0 <= n < MAX_SIZE for n in sizes):
            raise UnreadableFile(
                f"{self._path}: a tensor has offset {shown(offset)}, shape "
                f"{shown(shape)}, strides {shown(strides)}; all must be whole and at "
                "least 0."
            )
        numel = math.prod(shape)
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        if numel and (last >= storage.numel or numel > storage.numel):
            raise UnreadableFile(
                f"{self._path}: a tensor of shape {shown(shape)}, strides "
                f"{shown(strides)} reaches "
                f"out of its storage of {storage.numel} elements."
            )
        itemsize = storage.dtype.itemsize
        return Stored(
            self._path,
            storage.offset + offset * itemsize,
            storage.dtype,
            tuple(shape),
            tuple(s * itemsize for s in strides),
        )

    def tensor_of_bytes(
        self, storage: Storage, offset, shape, strides, grad, hooks, dtype, *_
    ) -> Stored | Unreadable:
        """Places a tensor that names its dtype in a storage of bytes."""
        if type(storage) is not Storage or type(dtype) is not TorchDtype:
            return Unreadable("_rebuild_tensor_v3")
        known = TORCH_DTYPES[dtype]
        numel = storage.numel * storage.dtype.itemsize // known.itemsize
        typed = Storage(storage.offset, known, numel)
        return self.tensor(typed, offset, shape, strides)

    def subclass(self, function: Any, kind: Any, args: Any, *_) -> Any:
        """Rebuilds a tensor with attributes, or of a subclass, as a plain tensor."""
        if type(function) is Function and type(args) is tuple:
            return function(*args)
        return Unreadable("_rebuild_from_type_v2")


def _first(data: Any, *_) -> Any:
    """Returns the tensor or array that a wrapper, a device or a parameter holds."""
    return data.value if type(data) is NumpyArray else data
