# SPDX-License-Identifier: Apache-2.0
"""Reads what `torch.save` wrote before version 1.6, as the published LPIPS and VGG16.

Such a file is five pickles (a magic number, the protocol, facts of the machine, the
objects, the storages' keys), then for each key a count (int64) and the raw elements.
The pickles are run like those of the zip files: nothing but tensors can be built.
"""

import pathlib
import pickletools
import struct

from ldm_jax.files.errors import described
from ldm_jax.interop.stored import Weights, WeightsFileError
from ldm_jax.interop.torch_files.unpickler import run_pickle
from ldm_jax.interop.torch_files.zip_format import (
    Storage,
    Unpickler,
    state_dict,
)

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
# How the first of the five pickles begins: protocol 2, an integer of ten bytes.
START = b"\x80\x02\x8a\x0a"


def read_torch_legacy(path) -> Weights:
    """Opens such a file; result and errors as `files.read_weights`."""
    path = pathlib.Path(path)
    with open(path, "rb") as file:
        magic, protocol, machine, objects, keys = (
            _next_pickle(path, file) for _ in range(5)
        )
        system = _run(path, machine, {})
        if (
            _run(path, magic, {}) != MAGIC
            or _run(path, protocol, {}) != PROTOCOL
            or not isinstance(system, dict)
            or system.get("little_endian") is not True
        ):
            raise WeightsFileError(
                f"{path} must be a little-endian file of torch.save: it is of another "
                "kind. Save it again with torch.save (1.6 or later) or as safetensors."
            )
        found = {}
        _run(path, objects, found, _Survey)
        offsets = _walk(path, file, _run(path, keys, {}), found)
    return Weights(state_dict(path, _run(path, objects, offsets)))


def _run(path, pickled: bytes, offsets, unpickler: type[Unpickler] = Unpickler):
    return run_pickle(path, pickled, lambda: unpickler(path, pickled, offsets))


def _next_pickle(path, file) -> bytes:
    """Reads up to the end of the pickle that starts here."""
    start = file.tell()
    try:
        for _ in pickletools.genops(file):
            pass
    except Exception as error:  # whatever damaged bytes provoke
        raise WeightsFileError(
            f"{path}: damaged pickle ({described(error)}). If it is "
            "cut off, download it again."
        ) from None
    end = file.tell()
    file.seek(start)
    return file.read(end - start)


class _Survey(Unpickler):
    """Learns which storages there are; `offsets` becomes {key: (dtype, numel)}."""

    def persistent_load(self, pid) -> Storage:
        key, dtype, numel = self.parse(pid)
        if self.offsets.setdefault(key, (dtype, numel)) != (dtype, numel):
            raise WeightsFileError(
                f'{self._path}: storage "{key}" is claimed to be of two kinds.'
            )
        return Storage(0, dtype, numel)


def _walk(path, file, keys, found) -> dict[str, tuple[int, int]]:
    """Finds where each storage lies, from here to the file's end: (offset, bytes)."""
    known = isinstance(keys, list) and all(type(key) is str for key in keys)
    if not known or sorted(keys) != sorted(found):
        raise WeightsFileError(
            f"{path}: the storages listed are not those of the tensors."
        )
    size, offsets = path.stat().st_size, {}
    for key in keys:
        dtype, numel = found[key]
        count = file.read(8)
        offset, length = file.tell(), numel * dtype.itemsize
        if count != struct.pack("<q", numel) or offset + length > size:
            raise WeightsFileError(
                f'{path}: storage "{key}" must hold {numel} of {dtype}: the file is '
                "cut off or damaged. Download it again."
            )
        offsets[key] = offset, length
        file.seek(offset + length)
    return offsets
