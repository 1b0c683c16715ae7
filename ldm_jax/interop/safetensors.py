# SPDX-License-Identifier: Apache-2.0
"""Reads and writes .safetensors files.

Sizes are checked against the file before memory is allocated, and an array is mapped
only when it is accessed, so a reader that copies one tensor at a time needs memory for
its copies and one tensor.
"""

import json
import math
import pathlib
import struct
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from ldm_jax.files.errors import UnreadableFile, shown
from ldm_jax.files.formats.arrays import check_num_arrays
from ldm_jax.files.formats.structured import parse_json
from ldm_jax.files.paths import PathLike, printable
from ldm_jax.files.progress import progress
from ldm_jax.files.reading import opened, regular_file
from ldm_jax.files.writing import atomic_file
from ldm_jax.interop.stored import Stored, Weights, contiguous_strides

# Published headers take a few hundred bytes per tensor; the format allows 100 MB.
MAX_HEADER_BYTES = 2**25

# safetensors name -> dtype, little-endian as both formats store it.
DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}


def read_safetensors(path: PathLike) -> Weights:
    """Opens a .safetensors file.

    Returns:
      {name: ndarray}, mapped from the file on access.

    Raises:
      UnreadableFile: the file is damaged, cut off or of another kind.
    """
    path = pathlib.Path(path)
    entries, start = _header(path)
    entries.pop("__metadata__", None)
    check_num_arrays(path, len(entries))
    stored, ranges = {}, []
    for name, entry in entries.items():
        stored[name], (first, last) = _stored_entry(path, name, entry, start)
        ranges.append((first, last, name))
    _check_ranges(path, ranges, path.stat().st_size - start)
    return Weights(stored)


def read_metadata(path: PathLike) -> dict[str, str]:
    """Reads the {text: text} that the header of a .safetensors file holds.

    Raises:
      UnreadableFile: as `read_safetensors`.
    """
    metadata = _header(pathlib.Path(path))[0].get("__metadata__", {})
    return metadata if isinstance(metadata, dict) else {}


def _header(path: pathlib.Path) -> tuple[dict[str, Any], int]:
    """Reads (entries of the header, byte at which the data starts)."""
    size = regular_file(path, "a file of weights").stat().st_size
    with opened(path, "a file of weights") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else None
        if length is None or length > min(size - 8, MAX_HEADER_BYTES):
            raise UnreadableFile(
                f"{printable(path)}: the header claims {length} bytes of a file of "
                f"{size}, at most {MAX_HEADER_BYTES:,} are read; the file is cut off "
                "or no safetensors file. Download it again."
            )
        header = file.read(length)
    return parse_json(header, path), 8 + length


def _stored_entry(
    path: pathlib.Path, name: str, entry: Any, start: int
) -> tuple[Stored, tuple[int, int]]:
    """Checks a header entry; returns its `Stored` and its (first, last) byte."""
    where = f'{printable(path)}: "{printable(name)}"'
    try:
        dtype = DTYPES[entry["dtype"]]
        shape = tuple(entry["shape"])
        first, last = entry["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise UnreadableFile(
            f"{where} must have a dtype of {sorted(DTYPES)}, a shape and two "
            f"data_offsets: got {shown(entry)}."
        ) from None
    sizes = (*shape, first, last)
    if len(shape) > 64 or any(type(n) is not int or not 0 <= n < 2**63 for n in sizes):
        raise UnreadableFile(
            f"{where} must have whole sizes and offsets of at least 0: got "
            f"shape {shown(shape)}, data_offsets {shown((first, last))}."
        )
    if last - first != math.prod(shape) * dtype.itemsize:
        raise UnreadableFile(
            f"{where} of shape {shown(shape)} and dtype {dtype} takes "
            f"{math.prod(shape) * dtype.itemsize} bytes: its data_offsets span "
            f"{last - first}."
        )
    strides = contiguous_strides(shape, dtype.itemsize)
    return Stored(path, start + first, dtype, shape, strides), (first, last)


def _check_ranges(
    path: pathlib.Path, ranges: list[tuple[int, int, str]], size: int
) -> None:
    """Checks that the tensors follow each other from 0 to the end of the file."""
    end = 0
    for first, last, name in sorted(ranges):
        if first != end:
            raise UnreadableFile(
                f'{printable(path)}: "{printable(name)}" starts at byte {first} of the '
                f"data, the tensor before it ends at {end}; tensors may neither "
                "overlap nor leave gaps."
            )
        end = last
    if end != size:
        raise UnreadableFile(
            f"{printable(path)}: the header describes {end} bytes of data, the file "
            f"has {size}; it is cut off or has been added to. Download it again."
        )


def write_safetensors(
    path: PathLike,
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes {name: array} as .safetensors, one tensor in memory at a time.

    Args:
      path: the file; an older one is replaced when the new one is complete.
      tensors: {name: ndarray}, of the dtypes of `DTYPES`.
      metadata: {str: str} kept in the header; PyTorch's readers expect
        {"format": "pt"}, which is the default.
    """
    entries, size = _entries(tensors)
    header = {"__metadata__": dict(metadata or {"format": "pt"}), **entries}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # readers map tensors: keep them aligned
    with atomic_file(path) as file, progress(path, size) as bar:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in tensors:
            array = np.ascontiguousarray(tensors[name]).reshape(-1)
            array.view(np.uint8).tofile(file)
            bar.update(array.nbytes)
            del array  # before the next one is made


def _entries(tensors: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], int]:
    """Returns (a header's entry for every tensor, the bytes of all)."""
    codes = {dtype: code for code, dtype in DTYPES.items()}
    entries: dict[str, Any] = {}
    end = 0
    for name in tensors:
        array = tensors[name]
        if array.dtype not in codes:
            raise TypeError(
                f'the dtype of "{name}" must be one of {list(map(str, codes))}: got '
                f"{array.dtype}; convert it."
            )
        entries[name] = {
            "dtype": codes[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [end, end + array.nbytes],
        }
        end += array.nbytes
        del array
    return entries, end
