# SPDX-License-Identifier: Apache-2.0
"""Orbax options: handlers, reading and verification.

Only this file, checkpointer.py and files/formats/array_groups.py use orbax directly.
"""

import contextlib
import json
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from ldm_jax.files.errors import UnreadableFile, reading
from ldm_jax.files.folders import refuse_special_files
from ldm_jax.files.formats.array_groups import GroupedArrays
from ldm_jax.files.formats.arrays import check_num_arrays
from ldm_jax.files.formats.structured import read_json
from ldm_jax.files.paths import is_remote
from ldm_jax.training.checkpoints.damage import Damaged
from ldm_jax.training.checkpoints.digest import digests
from ldm_jax.types import PyTree

# orbax gathers what it writes until a file is full; its own 2 GiB would be a second
# copy of most models in memory.
FILE_BYTES = 2**27
# Replicas share the writing of an array by slices, each of which is a program to
# compile: not worth it below this size.
SLICE_BYTES = 2**20


class _Steps(ocp.CheckpointManager):
    """Ignores JAX's preemption service, because the loop handles `StopSignal`.

    The service takes the last step that it was asked about for the one a process has
    come to. orbax asks about the step of a checkpoint, in the background and maybe
    later: a stop would then be agreed on for a step that is over, and never come, or
    come to some processes only, which hangs all.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


def open_steps(path: epath.Path, **options) -> ocp.CheckpointManager:
    """Opens `checkpoints/`; `options` are those of orbax's CheckpointManager.

    Raises:
      UnreadableFile: what is there cannot be a list of checkpoints; or it has a FIFO or
        the like, which a reader would wait for without end.
      OSError: it cannot be written or listed.
    """
    if not is_remote(path):
        refuse_special_files(path)
    arrays = ocp.type_handlers.ArrayHandler(
        min_slice_bytes_for_replica_parallel=SLICE_BYTES
    )
    types = ocp.type_handlers.create_type_handler_registry(
        (jax.Array, arrays), (np.ndarray, GroupedArrays())
    )
    handlers = dict(
        state=ocp.PyTreeCheckpointHandler(type_handler_registry=types),
        data=ocp.JsonCheckpointHandler(),
        config=ocp.JsonCheckpointHandler(),
    )
    try:
        return _Steps(
            path,
            options=ocp.CheckpointManagerOptions(**options),
            item_handlers=handlers,
        )
    except OSError:
        raise
    except Exception:  # of the bytes of its metadata
        with reading(path, data=b"-", rule="must hold checkpoints of Orbax"):
            raise


def sealed(data: Mapping[str, Any], digests: Mapping[str, int]) -> dict[str, Any]:
    """Returns the `data` item of a checkpoint, with a checksum of itself."""
    text = json.dumps([data, digests], sort_keys=True)
    return {"data": data, "digests": digests, "crc32": zlib.crc32(text.encode())}


def shapes_in(manager: ocp.CheckpointManager, step: int) -> PyTree:
    """Returns the arrays of a checkpoint as metadata; reads no array.

    Raises:
      OSError: orbax could not read the metadata, which it only logs.
      UnreadableFile: they claim more arrays than are read of a checkpoint.
    """
    check_num_arrays(*_num_arrays(manager, step))  # orbax opens each of them
    metadata = manager.item_metadata(step)["state"]
    if metadata is None:
        raise OSError("the metadata of its arrays are missing or could not be read")
    return metadata.tree


def _num_arrays(manager: ocp.CheckpointManager, step: int) -> tuple[epath.Path, int]:
    """Returns (the checkpoint, arrays in its list); 0 of a list that orbax refuses."""
    path = epath.Path(manager.directory) / str(step)
    with contextlib.suppress(OSError, UnreadableFile):
        names = read_json(path / "state" / "_METADATA").get("tree_metadata")
        return path, len(names) if isinstance(names, dict) else 0
    return path, 0


def read_verified(
    manager: ocp.CheckpointManager, step: int, expected: PyTree
) -> tuple[PyTree, dict[str, Any]]:
    """Reads the expected arrays, as NumPy where no sharding is given, and verifies."""

    def args(x):
        sharding = x.sharding if isinstance(x, jax.ShapeDtypeStruct) else None
        if sharding is None:
            return ocp.RestoreArgs(restore_type=np.ndarray)
        return ocp.ArrayRestoreArgs(sharding=sharding, global_shape=x.shape)

    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), expected)
    restored = manager.restore(
        step,
        args=ocp.args.Composite(
            state=ocp.args.PyTreeRestore(
                shapes, restore_args=jax.tree.map(args, expected), partial_restore=True
            ),
            data=ocp.args.JsonRestore(),
        ),
    )
    seal = restored["data"]
    if not isinstance(seal, dict) or not isinstance(seal.get("digests"), dict):
        raise Damaged("its digests are missing")
    data, stored = seal.get("data"), seal["digests"]
    if not isinstance(data, dict) or seal != sealed(data, stored):
        raise Damaged("the position in the data was changed")
    wrong = [
        name
        for name, digest in digests(restored["state"]).items()
        if stored.get(name) != digest
    ]
    if wrong:
        raise Damaged(f"stored and read digests differ in {len(wrong)}: {wrong[:3]}")
    return restored["state"], data
