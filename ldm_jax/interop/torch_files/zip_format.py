# SPDX-License-Identifier: Apache-2.0
"""Reads the zip files of `torch.save` without PyTorch and without trust.

Such a file is a zip of uncompressed entries: `*/data.pkl`, a pickle that describes the
objects, and `*/data/KEY`, the raw bytes of each tensor's storage. Unpickling is calling
functions by name; here only the handful that build tensors can be called. Published
checkpoints also hold trainer objects: names of known trainers become inert stubs, any
other name refuses the file.
"""

import math
import pathlib
import struct
import zipfile
from typing import NamedTuple

import ml_dtypes
import numpy as np

from ldm_jax.files.errors import shown
from ldm_jax.files.paths import printable
from ldm_jax.interop.stored import (
    Stored,
    Weights,
    WeightsFileError,
)
from ldm_jax.interop.torch_files.unpickler import (
    Dict,
    Function,
    Inert,
    SafeUnpickler,
    run_pickle,
)

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

# Packages whose objects lie in honest training checkpoints; each becomes a stub that
# does nothing, so even these run no code of theirs.
STUBBED_PACKAGES = frozenset(
    {
        *("pytorch_lightning", "lightning", "lightning_fabric", "lightning_utilities"),
        *(
            "torch",
            "torchmetrics",
            "numpy",
            "omegaconf",
            "ldm",
            "taming",
            "transformers",
        ),
    }
)
_STUBBED_BUILTINS = (
    "set frozenset dict list tuple object int float complex bool str bytes bytearray "
    "slice"
)
STUBBED_NAMES = frozenset(
    {
        *(("typing", "Any"), ("collections", "defaultdict"), ("copyreg", "__newobj__")),
        *(("copyreg", "_reconstructor"), ("_codecs", "encode"), ("pathlib", "Path")),
        *(
            ("pathlib", "PosixPath"),
            ("argparse", "Namespace"),
            ("datetime", "timedelta"),
        ),
        *(("builtins", name) for name in _STUBBED_BUILTINS.split()),
        *(("__builtin__", name) for name in _STUBBED_BUILTINS.split()),
    }
)


# What zipfile raises for one kind of damage or another.
_BAD_ZIP = (
    *(zipfile.BadZipFile, EOFError, struct.error, OSError, ValueError),
    *(NotImplementedError, RuntimeError),
)


# Of an axis, in elements, and of axes: NumPy's own bounds.
MAX_SIZE, MAX_AXES = 2**63, 64


class _StorageType(str):
    """Name of a storage class; no dtype, whose state a pickle could overwrite."""

    __slots__ = ()


class Storage(NamedTuple):
    """A storage in the file: offset in bytes, dtype, number of elements."""

    offset: int
    dtype: np.dtype
    numel: int


def read_torch(path) -> Weights:
    """Opens a zip file of `torch.save`; result and errors as `files.read_weights`."""
    path = pathlib.Path(path)
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            entries = _checked_entries(path, archive)
            root = _root(path, entries)
            order = entries.get(f"{root}/byteorder")
            if order is not None and archive.read(order) != b"little":
                raise WeightsFileError(f"{path}: only little-endian files are read.")
            offsets = {
                name[len(root) + 6 :]: (_data_offset(path, file, info), info.file_size)
                for name, info in entries.items()
                if name.startswith(f"{root}/data/")
            }
            pickled = archive.read(entries[f"{root}/data.pkl"])
    except WeightsFileError:
        raise
    except _BAD_ZIP as error:
        raise WeightsFileError(
            f"{path}: not a complete zip file ({error}); it is probably cut off. "
            "Download it again."
        ) from None
    root = run_pickle(path, pickled, lambda: Unpickler(path, pickled, offsets))
    return Weights(state_dict(path, root))


def _checked_entries(path, archive) -> dict[str, zipfile.ZipInfo]:
    """Lists the entries; refuses duplicates, compression and more bytes than the file.

    torch.save never compresses, so compression only serves to hide a bomb.
    """
    entries, total = {}, 0
    for info in archive.infolist():
        if info.filename in entries:
            raise WeightsFileError(
                f'{path}: "{info.filename}" occurs twice in the zip.'
            )
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise WeightsFileError(
                f'{path}: "{info.filename}" is compressed or encrypted, which '
                "torch.save never does; the file is not read."
            )
        entries[info.filename] = info
        total += info.file_size
        if info.file_size != info.compress_size or total > path.stat().st_size:
            raise WeightsFileError(
                f'{path}: "{info.filename}" claims {info.file_size} bytes, more than '
                "the file holds; it is damaged or made to exhaust memory."
            )
    return entries


def _root(path, entries) -> str:
    """Finds the one folder of the zip that holds data.pkl."""
    roots = [name[:-9] for name in entries if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise WeightsFileError(
            f"{path}: a zip of torch.save holds data.pkl once: found {len(roots)}."
        )
    return roots[0]


def _data_offset(path, file, info) -> int:
    """Byte at which an entry's data starts, behind its local header."""
    file.seek(info.header_offset)
    header = file.read(30)
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    start = info.header_offset + 30 + name_length + extra_length
    if header[:4] != b"PK\x03\x04" or start + info.file_size > path.stat().st_size:
        raise WeightsFileError(
            f'{path}: "{info.filename}" reaches past the file\'s end.'
        )
    return start


class Unpickler(SafeUnpickler):
    """Unpickler that resolves names from a list and storages from the file."""

    def __init__(self, path, pickled: bytes, offsets):
        super().__init__(pickled)
        self._path = path
        self.offsets = offsets  # key -> (offset, bytes)
        self._known = {
            ("collections", "OrderedDict"): Dict,
            ("torch", "Size"): Function(tuple),
            ("torch._utils", "_rebuild_tensor"): Function(self._tensor),
            ("torch._utils", "_rebuild_tensor_v2"): Function(self._tensor),
            ("torch._utils", "_rebuild_parameter"): Function(lambda data, *_: data),
        }

    def find_class(self, module: str, name: str):
        """Returns our stand-in for a global; refuses one that nobody honest needs."""
        if (module, name) in self._known:
            return self._known[module, name]
        if module in ("torch", "torch.storage") and name in STORAGES:
            return _StorageType(name)
        if (module, name) in STUBBED_NAMES or module.split(".")[0] in STUBBED_PACKAGES:
            return type(name.split(".")[-1], (Inert,), {})
        raise WeightsFileError(
            f"{self._path} asks for {printable(module)}.{printable(name)}, which "
            "weights have no use for; nothing was run. If you trust the file, open it "
            "with PyTorch and save its state_dict as safetensors."
        )

    def persistent_load(self, pid) -> Storage:
        """Finds the storage ("storage", dtype, key, device, numel) in the file."""
        key, dtype, numel = self.parse(pid)
        if key not in self.offsets:
            raise WeightsFileError(f'{self._path}: storage "{key}" is missing.')
        offset, size = self.offsets[key]
        if numel * dtype.itemsize > size:
            raise WeightsFileError(
                f'{self._path}: storage "{key}" must hold {numel} of {dtype}: it has '
                f"{size} bytes."
            )
        return Storage(offset, dtype, numel)

    def parse(self, pid):
        """Returns (key, dtype, numel) of a storage's persistent id."""
        if type(pid) is not tuple or len(pid) not in (5, 6):
            raise WeightsFileError(f"{self._path}: unknown storage {shown(pid)}.")
        kind, storage_type, key, _, numel, *view = pid
        if (
            kind != "storage"
            or type(storage_type) is not _StorageType
            or type(key) is not str
            or type(numel) is not int
            or not 0 <= numel < MAX_SIZE
            or any(entry is not None for entry in view)
        ):
            raise WeightsFileError(f"{self._path}: unknown storage {shown(pid)}.")
        return key, STORAGES[storage_type], numel

    def _tensor(self, storage: Storage, offset, shape, strides, *_) -> Stored:
        """Places a tensor in its storage; offset and strides count elements."""
        if type(storage) is not Storage:  # nothing that only has its attributes
            raise WeightsFileError(
                f"{self._path}: a tensor needs a storage of the file: got "
                f"{shown(storage)}."
            )
        whole = all(type(sizes) in (tuple, list) for sizes in (shape, strides))
        whole = whole and len(shape) == len(strides) <= MAX_AXES
        sizes = (offset, *shape, *strides) if whole else (None,)
        if not all(type(n) is int and 0 <= n < MAX_SIZE for n in sizes):
            raise WeightsFileError(
                f"{self._path}: a tensor has offset {shown(offset)}, shape "
                f"{shown(shape)}, strides {shown(strides)}; all must be whole and at "
                "least 0."
            )
        numel = math.prod(shape)
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        if numel and (last >= storage.numel or numel > storage.numel):
            raise WeightsFileError(
                f"{self._path}: a tensor of shape {shown(shape)}, strides "
                f"{shown(strides)} reaches out of its storage of {storage.numel} "
                "elements."
            )
        itemsize = storage.dtype.itemsize
        return Stored(
            self._path,
            storage.offset + offset * itemsize,
            storage.dtype,
            tuple(shape),
            tuple(s * itemsize for s in strides),
        )


def state_dict(path, root) -> dict[str, Stored]:
    """Takes the tensors of the state dict out of whatever surrounds them."""
    if isinstance(root, dict) and isinstance(root.get("state_dict"), dict):
        root = root["state_dict"]
    if not isinstance(root, dict):
        raise WeightsFileError(
            f"{path} holds no state dict: got {type(root).__name__}."
        )
    stored = {name: value for name, value in root.items() if isinstance(value, Stored)}
    if not stored:
        raise WeightsFileError(f"{path} holds no tensors in its state dict.")
    return stored
