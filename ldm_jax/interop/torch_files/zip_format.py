# SPDX-License-Identifier: Apache-2.0
"""Reads the zip files of `torch.save` without PyTorch and without running their code.

Such a file is a zip of uncompressed entries: `*/data.pkl`, a pickle that describes the
objects, and `*/data/KEY`, the raw bytes of each tensor's storage.
"""

import pathlib
import struct
import zipfile
from typing import Any

from ldm_jax.files.errors import UnreadableFile, reading
from ldm_jax.files.formats.arrays import check_num_arrays
from ldm_jax.interop.torch_files.torch_pickle import unpickle


def read_torch(path: pathlib.Path) -> Any:
    """Reads the objects of a zip file of `torch.save`; tensors become `Stored`.

    Raises:
      UnreadableFile: the file is damaged or unsafe.
    """
    path = pathlib.Path(path)
    rule, advice = (
        "must be a complete zip file",
        "It is probably cut off: get it again.",
    )
    with (
        reading(path, rule=rule, advice=advice),
        zipfile.ZipFile(path) as archive,
        open(path, "rb") as file,
    ):
        entries = _checked_entries(path, archive)
        root = _root(path, entries)
        order = entries.get(f"{root}/byteorder")
        if order is not None and archive.read(order) != b"little":
            raise UnreadableFile(f"{path}: only little-endian files are read.")
        offsets = {
            name[len(root) + 6 :]: (_data_offset(path, file, info), info.file_size)
            for name, info in entries.items()
            if name.startswith(f"{root}/data/")
        }
        pickled = archive.read(entries[f"{root}/data.pkl"])
    return unpickle(path, pickled, offsets)


def _checked_entries(path, archive) -> dict[str, zipfile.ZipInfo]:
    """Lists the entries; refuses duplicates, compression and more bytes than the file.

    torch.save never compresses, so compression only serves to hide a bomb.
    """
    entries, total = {}, 0
    check_num_arrays(path, len(archive.infolist()))
    for info in archive.infolist():
        if info.filename in entries:
            raise UnreadableFile(f'{path}: "{info.filename}" occurs twice in the zip.')
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise UnreadableFile(
                f'{path}: "{info.filename}" is compressed or encrypted, which '
                "torch.save never does; the file is not read."
            )
        entries[info.filename] = info
        total += info.file_size
        if info.file_size != info.compress_size or total > path.stat().st_size:
            raise UnreadableFile(
                f'{path}: "{info.filename}" claims {info.file_size} bytes, more than '
                "the file holds; it is damaged or made to exhaust memory."
            )
    return entries


def _root(path, entries) -> str:
    """Finds the one folder of the zip that holds data.pkl."""
    roots = [name[:-9] for name in entries if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise UnreadableFile(
            f"{path}: a zip of torch.save holds data.pkl once: found {len(roots)}."
        )
    return roots[0]


def _data_offset(path, file, info) -> int:
    """Returns the byte at which an entry's data starts, after its local header."""
    file.seek(info.header_offset)
    header = file.read(30)
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    start = info.header_offset + 30 + name_length + extra_length
    if header[:4] != b"PK\x03\x04" or start + info.file_size > path.stat().st_size:
        raise UnreadableFile(f'{path}: "{info.filename}" reaches past the file\'s end.')
    return start
