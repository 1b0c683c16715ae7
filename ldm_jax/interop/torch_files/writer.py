# SPDX-License-Identifier: Apache-2.0
"""Writes checkpoints in the format of `torch.save`, without PyTorch."""

import pickle
import zipfile
from collections.abc import Mapping

import numpy as np

from ldm_jax.files.progress import progress
from ldm_jax.files.writing import atomic_file
from ldm_jax.interop.stored import contiguous_strides
from ldm_jax.interop.torch_files.rebuild import STORAGES


def write_ckpt(path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes {"state_dict": tensors} as `torch.save` would, without PyTorch.

    `torch.load(path, weights_only=True)` opens it. An older file is replaced when the
    new one is complete; one tensor is in memory at a time.

    Args:
      path: the file to write.
      tensors: {name: ndarray} of the dtypes of `STORAGES`.
    """
    storages = {
        dtype: name for name, dtype in STORAGES.items() if name != "UntypedStorage"
    }
    for name, array in tensors.items():
        if array.dtype not in storages:
            raise TypeError(
                f'the dtype of "{name}" must be one of {list(map(str, storages))}: got '
                f"{array.dtype}; convert it."
            )
    size = sum(array.nbytes for array in tensors.values())
    with (
        atomic_file(path) as file,
        zipfile.ZipFile(file, "w") as archive,
        progress(path, size) as bar,
    ):
        archive.writestr("archive/data.pkl", _pickled(tensors, storages))
        archive.writestr("archive/byteorder", "little")
        for i, name in enumerate(tensors):
            with archive.open(f"archive/data/{i}", "w", force_zip64=True) as entry:
                flat = np.ascontiguousarray(tensors[name]).reshape(-1)
                entry.write(flat.view(np.uint8).data)
            bar.update(flat.nbytes)
        archive.writestr("archive/version", "3\n")


def _pickled(tensors, storages) -> bytes:
    """Pickles {"state_dict": OrderedDict(name -> tensor)} by hand, opcode by opcode.

    The pickler itself cannot: it looks up every global it writes, and torch's are not
    here.
    """
    ordered_dict = b"ccollections\nOrderedDict\n)R"
    parts = [b"\x80\x02}", _push("state_dict"), ordered_dict, b"("]
    for i, (name, array) in enumerate(tensors.items()):
        strides = contiguous_strides(array.shape, 1)
        parts += [
            *(_push(name), b"ctorch._utils\n_rebuild_tensor_v2\n(("),
            *(_push("storage"), f"ctorch\n{storages[array.dtype]}\n".encode()),
            *(_push(str(i)), _push("cpu"), _push(array.size), b"tQ", _push(0)),
            *(_push(array.shape), _push(strides), b"\x89", ordered_dict, b"tR"),
        ]
    return b"".join([*parts, b"us."])


def _push(value) -> bytes:
    """Returns opcodes that push a string, an integer or a tuple of them."""
    return pickle.dumps(value, protocol=2)[2:-1]  # without PROTO and STOP
