# SPDX-License-Identifier: Apache-2.0
"""Writes and reads NumPy arrays with orbax, a group of them at a time.

orbax copies all NumPy arrays before it writes one, and compresses all at once, which
takes two to three times their bytes. With groups, the additional memory is that of one
group, or of one array if this is larger.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from ldm_jax.files.write_errors import reported
from ldm_jax.types import PyTree

# Of arrays that are written at once; files that `write_arrays` makes are as large.
GROUP_BYTES = 2**26
# Arrays that are read at once: their sizes are not known before.
GROUP_COUNT = 8
# The list of all arrays is rewritten with each of them. A cache keeps this many bytes
# of lists; orbax's 100 MB would fill up with lists that are never read again.
CACHE_BYTES = 2**20


def write_arrays(
    folder: os.PathLike[str], tree: PyTree, written: Callable[[int], Any]
) -> None:
    """Writes a tree of NumPy arrays as an orbax checkpoint without steps.

    `orbax.checkpoint.StandardCheckpointer().restore(folder)` reads it.

    Args:
      folder: absolute path, new.
      tree: nested dicts of arrays.
      written: see `GroupedArrays`.

    Raises:
      WriteError: they could not be written; with path and free space.
    """
    context = ts.Context({"cache_pool#ocdbt": {"total_bytes_limit": CACHE_BYTES}})
    types = ocp.type_handlers.create_type_handler_registry(
        (np.ndarray, GroupedArrays(written, context)),
        # For the metadata of arrays, which readers expect; there is none to write.
        (jax.Array, ocp.type_handlers.ArrayHandler()),
    )
    # Neither compressed (float32 would lose 7% of its size) nor split into files (0: a
    # file for each group), so that arrays are written from where they are in memory.
    arguments = ocp.args.PyTreeSave(tree, ocdbt_target_data_file_size=0)
    handler = ocp.PyTreeCheckpointHandler(
        type_handler_registry=types, use_compression=False
    )
    with reported(folder, every=True), ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(folder, args=arguments)


class GroupedArrays(ocp.type_handlers.NumpyHandler):
    """Handles NumPy arrays in groups; they must not change while they are written."""

    def __init__(
        self,
        written: Callable[[int], Any] = lambda num_bytes: None,
        context: ts.Context | None = None,
    ):
        """Makes the handler.

        Args:
          written: called with the bytes of each group when it is on the disk.
          context: of tensorstore while writing; None for that of orbax.
        """
        super().__init__()
        self._written, self._context = written, context

    async def serialize(self, values, infos, args=None):
        """Writes arrays, and returns when they are on the disk; see the base class."""
        args = args or [ocp.SaveArgs()] * len(values)
        if self._context is not None:
            infos = [info.replace(ts_context=self._context) for info in infos]
        for group in _groups([np.asarray(x).nbytes for x in values]):
            arrays = [np.asarray(x).view(_Uncopied) for x in values[group]]
            futures = await super().serialize(arrays, infos[group], args[group])
            for future in futures:
                future.result()
            self._written(sum(x.nbytes for x in arrays))
        return []

    async def deserialize(self, infos, args=None):
        """Reads arrays; see the base class."""
        args = args or [ocp.RestoreArgs()] * len(infos)
        arrays = []
        for first in range(0, len(infos), GROUP_COUNT):
            group = slice(first, first + GROUP_COUNT)
            arrays += await super().deserialize(infos[group], args[group])
        return arrays


class _Uncopied(np.ndarray):
    """An array that orbax writes without copying it first."""

    def __deepcopy__(self, memo):
        return self


def _groups(sizes: Sequence[int]) -> Iterator[slice]:
    """Yields slices of arrays with GROUP_BYTES at most together, or of one array."""
    first, total = 0, 0
    for i, size in enumerate(sizes):
        if i > first and total + size > GROUP_BYTES:
            yield slice(first, i)
            first, total = i, 0
        total += size
    yield slice(first, len(sizes))
