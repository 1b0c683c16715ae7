# SPDX-License-Identifier: Apache-2.0
"""Reads files of `torch.save` before version 1.6, such as published LPIPS and VGG16.

Such a file is five pickles (a magic number, the protocol, properties of the machine,
the objects, the storages' keys), then for each key a count (int64) and the raw
elements. The pickles are read like those of the zip files: only tensors can be built.
"""

import pathlib
import struct
from typing import Any, BinaryIO

from ldm_jax.files.errors import UnreadableFile, reading
from ldm_jax.interop.torch_files.rebuild import Storage
from ldm_jax.interop.torch_files.torch_pickle import TorchUnpickler, unpickle
from ldm_jax.interop.torch_files.unpickler import instructions

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
# How the first of the five pickles begins: protocol 2, an integer of ten bytes.
START = b"\x80\x02\x8a\x0a"


def read_torch_legacy(path: pathlib.Path) -> Any:
    """Reads the objects of such a file; result and errors as `read_torch`."""
    path = pathlib.Path(path)
    with open(path, "rb") as file:
        magic, protocol, system, objects, keys = (
            _next_pickle(path, file) for _ in range(5)
        )
        properties = unpickle(path, system, {})
        if (
            unpickle(path, magic, {}) != MAGIC
            or unpickle(path, protocol, {}) != PROTOCOL
            or not isinstance(properties, dict)
            or properties.get("little_endian") is not True
        ):
            raise UnreadableFile(
                f"{path} must be a little-endian file of torch.save: it is of another "
                "kind. Save it again with torch.save (1.6 or later) or as safetensors."
            )
        storages: dict[str, tuple[Any, int]] = {}
        unpickle(path, objects, storages, _Survey)
        offsets = _offsets(path, file, unpickle(path, keys, {}), storages)
    return unpickle(path, objects, offsets)


def _next_pickle(path: pathlib.Path, file: BinaryIO) -> bytes:
    """Reads up to the end of the pickle that starts here."""
    start = file.tell()
    advice = "If it is cut off, get it again."
    with reading(path, rule="has a damaged pickle", advice=advice, data=b"-"):
        bounded: Any = _Bounded(file, path.stat().st_size)  # reads, which is enough
        for _ in instructions(path, bounded):
            pass
    end = file.tell()
    file.seek(start)
    return file.read(end - start)


class _Bounded:
    """A file that reads at most its size, so a claimed length of 2**62 is harmless."""

    def __init__(self, file: BinaryIO, size: int):
        self._file, self._size = file, size
        self.tell, self.readline = file.tell, file.readline

    def read(self, size: int) -> bytes:
        """Reads bytes, at most those up to the end."""
        return self._file.read(min(size, self._size - self._file.tell()))


class _Survey(TorchUnpickler):
    """Collects the storages: `offsets` becomes {key: (dtype, numel)}."""

    def persistent_load(self, pid: Any) -> Storage:
        """Registers a storage, whose position is not known yet."""
        key, dtype, numel = self.parse(pid)
        if self.offsets.setdefault(key, (dtype, numel)) != (dtype, numel):
            raise UnreadableFile(
                f'{self._path}: storage "{key}" is claimed to be of two kinds.'
            )
        return Storage(0, dtype, numel)


def _offsets(path, file, keys, storages) -> dict[str, tuple[Any, int]]:
    """Finds (offset, bytes) of each storage, from here to the end of the file."""
    known = isinstance(keys, list) and all(type(key) is str for key in keys)
    if not known or sorted(keys) != sorted(storages):
        raise UnreadableFile(
            f"{path}: the storages listed are not those of the tensors."
        )
    size, offsets = path.stat().st_size, {}
    for key in keys:
        dtype, numel = storages[key]
        count = file.read(8)
        offset, length = file.tell(), numel * dtype.itemsize
        if count != struct.pack("<q", numel) or offset + length > size:
            raise UnreadableFile(
                f'{path}: storage "{key}" must hold {numel} of {dtype}: the file is '
                "cut off or damaged. Download it again."
            )
        offsets[key] = offset, length
        file.seek(offset + length)
    return offsets
