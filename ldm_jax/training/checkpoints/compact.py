# SPDX-License-Identifier: Apache-2.0
"""A small model directory: settings and one file of parameters in half precision."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from ldm_jax.files.errors import UnreadableFile, shown
from ldm_jax.files.formats.arrays import read_npz, write_npz
from ldm_jax.files.paths import PathLike, printable, resolve
from ldm_jax.files.writing import write_json
from ldm_jax.types import PyTree

COMPACT_FILE = "params.npz"


def write_compact(
    folder: pathlib.Path, settings: Mapping[str, Any], params: PyTree
) -> list[pathlib.Path]:
    """Writes settings and parameters; the latter are rounded to float16.

    Args:
      folder: made if missing.
      settings: of the model, JSON-able.
      params: pytree of arrays, an entry per network.

    Returns:
      The paths written.

    Raises:
      ValueError: a parameter is too large for float16.
    """
    flat: dict[str, Any] = dict(traverse_util.flatten_dict(params, sep="/"))
    with np.errstate(over="ignore"):  # refused below, by name
        large = [n for n, x in flat.items() if not np.isfinite(_half(x)).all()]
    if large:
        raise ValueError(
            f"parameters must be below 65504 to be stored in half precision: "
            f"{', '.join(large[:3])} are not; use --to=safetensors."
        )
    write_json(folder / "config.json", dict(settings), indent=1)
    halves = ((name, _half(x)) for name, x in flat.items())
    num_bytes = sum(2 * np.size(x) for x in flat.values())
    write_npz(folder / COMPACT_FILE, halves, num_bytes, is_compressed=True)
    return [folder / "config.json", folder / COMPACT_FILE]


def _half(x: Any) -> np.ndarray:
    """Rounds an array to float16."""
    return np.asarray(x, np.float16)


def read_compact(directory: PathLike) -> PyTree:
    """Reads the parameters of a small model directory, as float32.

    Raises:
      UnreadableFile: the file is damaged, or holds something else than parameters.
    """
    path = os.fspath(resolve(directory) / COMPACT_FILE)
    flat = read_npz(path)
    folders = {name[:i] for name in flat for i, c in enumerate(name) if c == "/"}
    for name, array in flat.items():
        if array.dtype.kind != "f" or name in folders:
            raise UnreadableFile(
                f"{printable(path)}: {shown(name)} must be an array of floating-point "
                f"numbers with a name of its own: got {array.dtype}; get the file "
                "again."
            )
    tree = traverse_util.unflatten_dict(flat, sep="/")
    return jax.tree.map(lambda x: x.astype(np.float32), tree)
