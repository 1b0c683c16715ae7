# SPDX-License-Identifier: Apache-2.0
"""Reads and writes files of weights: .safetensors, .ckpt/.pth and diffusers folders.

Files come from strangers: nothing in them is executed, sizes are checked against the
file before memory is taken, and an array is mapped only when it is looked at, so that
a reader who copies one tensor at a time holds its copies and one tensor, no more.
"""

import json
import math
import os
import pathlib
import struct
from collections.abc import Mapping

import ml_dtypes
import numpy as np

from ldm_jax.files import structured
from ldm_jax.files.errors import (
    MissingFile,
    UnreadableFile,
    impostor_bytes,
    shown,
)
from ldm_jax.files.paths import printable
from ldm_jax.files.reading import opened
from ldm_jax.files.structured import parse_json
from ldm_jax.files.writing import atomic_file
from ldm_jax.interop.stored import (
    Stored,
    Weights,
    WeightsFileError,
    contiguous_strides,
)
from ldm_jax.interop.torch_files.legacy_format import START, read_torch_legacy
from ldm_jax.interop.torch_files.zip_format import read_torch

# Published headers take a few hundred bytes per tensor; the format's own limit.
MAX_HEADER_BYTES = 100_000_000

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
}


def read_weights(path) -> Weights:
    """Opens a file or a folder of weights as a flat {name: array}.

    Args:
      path: a .safetensors, .ckpt, .pth, .pt or .bin file (the last four as written by
        `torch.save`), or a folder that holds one model as diffusers and transformers
        save it.

    Returns:
      {name: ndarray}; arrays are mapped from the file on access. Of a training
      checkpoint, the entries of its "state_dict".

    Raises:
      FileNotFoundError: nothing lies at `path`.
      WeightsFileError: the file is damaged, of an unknown kind, or unsafe.
    """
    path = pathlib.Path(path).expanduser()
    if path.is_dir():
        return _read_folder(path)
    with opened(path, "a file of weights") as file:
        start = file.read(512)
    if what := impostor_bytes(start):
        raise WeightsFileError(f"{printable(path)} must hold weights: {what}.")
    if start[:4] == b"PK\x03\x04":
        return read_torch(path)
    if start[:4] == START:
        return read_torch_legacy(path)
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return read_safetensors(path)
    raise WeightsFileError(
        f"{path} is neither a .safetensors file nor written by torch.save: it "
        f"starts with {start[:4]!r}. A plain pickle is not opened, since reading one "
        "can run anything; save it again with torch.save (1.6 or later) or as "
        "safetensors, in the place it came from. A cut-off download starts anew."
    )


def read_safetensors(path) -> Weights:
    """Opens a .safetensors file; arguments, result and errors as `read_weights`."""
    path = pathlib.Path(path)
    size = path.stat().st_size
    with opened(path, "a file of weights") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else None
        if length is None or length > min(size - 8, MAX_HEADER_BYTES):
            raise WeightsFileError(
                f"{path}: the header claims {length} bytes of a file of {size}; the "
                "file is cut off or no safetensors file. Download it again."
            )
        header = file.read(length)
    try:
        entries = parse_json(header, path, unique=True)
    except UnreadableFile as error:
        raise WeightsFileError(f"unreadable header: {error}") from None
    start = 8 + length
    stored, ranges = {}, []
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        stored[name], (first, last) = _stored_entry(path, name, entry, start)
        ranges.append((first, last, name))
    _check_ranges(path, ranges, size - start)
    return Weights(stored)


def _stored_entry(path, name, entry, start):
    """Checks a header entry; returns its `Stored` and its (first, last) byte."""
    try:
        dtype = DTYPES[entry["dtype"]]
        shape = tuple(entry["shape"])
        first, last = entry["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise WeightsFileError(
            f'{path}: "{name}" must have a dtype of {sorted(DTYPES)}, a shape and two '
            f"data_offsets: got {shown(entry)}."
        ) from None
    sizes = (*shape, first, last)
    if len(shape) > 64 or any(type(n) is not int or not 0 <= n < 2**63 for n in sizes):
        raise WeightsFileError(
            f'{path}: "{name}" must have whole sizes and offsets of at least 0: got '
            f"shape {shown(shape)}, data_offsets {shown((first, last))}."
        )
    if last - first != math.prod(shape) * dtype.itemsize:
        raise WeightsFileError(
            f'{path}: "{name}" of shape {shape} and dtype {dtype} takes '
            f"{math.prod(shape) * dtype.itemsize} bytes: its data_offsets span "
            f"{last - first}."
        )
    strides = contiguous_strides(shape, dtype.itemsize)
    return Stored(path, start + first, dtype, shape, strides), (first, last)


def _check_ranges(path, ranges, size):
    """Checks that the tensors follow each other from 0 to the end of the file."""
    end = 0
    for first, last, name in sorted(ranges):
        if first != end:
            raise WeightsFileError(
                f'{path}: "{name}" starts at byte {first} of the data, the tensor '
                f"before it ends at {end}; tensors may neither overlap nor leave gaps."
            )
        end = last
    if end != size:
        raise WeightsFileError(
            f"{path}: the header describes {end} bytes of data, the file has {size}; "
            "it is cut off or has been added to. Download it again."
        )


# The names under which diffusers and transformers save a model, the safe ones first.
_FOLDER_FILES = (
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
)


def _read_folder(folder: pathlib.Path) -> Weights:
    """Opens the weights of one model folder, in one file or in shards by an index."""
    for file in _FOLDER_FILES:
        if (folder / file).is_file():
            return read_weights(folder / file)
        index = folder / f"{file}.index.json"
        if index.is_file():
            return _read_shards(index)
    others = [
        f"{printable(file.name)} ({what})"
        for ending, what in _OTHER_FILES.items()
        for file in sorted(folder.glob(f"*{ending}"))
    ]
    here = f", only {', '.join(others[:4])}" if others else ""
    raise WeightsFileError(
        f"{folder} holds none of {', '.join(_FOLDER_FILES)}{here}; name the folder of "
        "one model (of a pipeline, its unet/ or vae/)."
    )


# What other variants of a model are called, with what to do about them.
_OTHER_FILES = {
    ".fp16.safetensors": "half precision: rename it without .fp16",
    ".fp16.bin": "half precision: rename it without .fp16",
    ".non_ema.safetensors": "without averaging: rename it without .non_ema",
    ".msgpack": "Flax: get the PyTorch weights of the same model",
    ".onnx": "ONNX: get the PyTorch weights of the same model",
    ".h5": "TensorFlow: get the PyTorch weights of the same model",
}


def _read_shards(index: pathlib.Path) -> Weights:
    """Opens the shards an index names; they must lie beside it."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(
        isinstance(v, str) for v in names.values()
    ):
        raise WeightsFileError(f'{index} must hold "weight_map": {{name: file}}.')
    stored = {}
    for file in sorted(set(names.values())):
        if file != os.path.basename(file) or file in ("", ".", "..") or "\\" in file:
            raise WeightsFileError(
                f'{index} names the file "{file}"; shards must lie beside the index.'
            )
        stored.update(read_weights(index.parent / file).stored)
    if set(stored) != set(names):
        odd = sorted(set(stored) ^ set(names))
        raise WeightsFileError(f"{index} and its shards differ in {odd[:5]}.")
    return Weights(stored)


def read_json(path) -> dict:
    """Reads a JSON object; raises WeightsFileError for anything else."""
    try:
        return structured.read_json(path, MAX_HEADER_BYTES)
    except MissingFile:
        raise
    except UnreadableFile as error:
        raise WeightsFileError(str(error)) from error


def write_safetensors(path, tensors: Mapping[str, np.ndarray], metadata=None) -> None:
    """Writes {name: array} as .safetensors, one tensor in memory at a time.

    Args:
      path: the file; an older one is replaced when the new one is complete.
      tensors: {name: ndarray}, of the dtypes of `DTYPES`.
      metadata: {str: str} kept in the header; PyTorch's readers expect
        {"format": "pt"}, which is the default.
    """
    codes = {dtype: code for code, dtype in DTYPES.items()}
    header: dict = {"__metadata__": metadata or {"format": "pt"}}
    end = 0
    for name, array in tensors.items():
        if array.dtype not in codes:
            raise TypeError(
                f'"{name}" is {array.dtype}; safetensors takes {list(codes)}.'
            )
        header[name] = {
            "dtype": codes[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [end, end + array.nbytes],
        }
        end += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # readers map tensors: keep them aligned
    with atomic_file(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in tensors:
            np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8).tofile(file)
