# SPDX-License-Identifier: Apache-2.0
"""How orbax is asked: what is kept, and how a checkpoint is read and verified.

Beside `checkpoint.py` the only file that knows orbax.
"""

import json
import math
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from ldm_jax.training.checkpoints.digest import digests
from ldm_jax.types import PyTree

# orbax gathers what it writes until a file is full; its own 2 GiB would be a second
# copy of most models in memory.
FILE_BYTES = 2**27
# Replicas share the writing of an array by slices, each of which is a program to
# compile: not worth it below this size.
SLICE_BYTES = 2**20


class _Steps(ocp.CheckpointManager):
    """Leaves to the loop what `stopping.StopSignal` asks JAX's preemption service.

    The service takes the last step that it was asked about for the one a process has
    come to. orbax asks about the step of a checkpoint, in the background and maybe
    later: a stop would then be agreed on for a step that is over, and never come, or
    come to some processes only, which hangs all.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


def open_steps(path: epath.Path, **options) -> ocp.CheckpointManager:
    """Opens `checkpoints/`; `options` are those of orbax's CheckpointManager."""
    arrays = ocp.type_handlers.ArrayHandler(
        min_slice_bytes_for_replica_parallel=SLICE_BYTES
    )
    types = ocp.type_handlers.create_type_handler_registry(
        (jax.Array, arrays), (np.ndarray, ocp.type_handlers.NumpyHandler())
    )
    handlers = dict(
        state=ocp.PyTreeCheckpointHandler(type_handler_registry=types),
        data=ocp.JsonCheckpointHandler(),
        config=ocp.JsonCheckpointHandler(),
    )
    return _Steps(
        path,
        options=ocp.CheckpointManagerOptions(**options),
        item_handlers=handlers,
    )


def preservation(keep: int, best: str | None, best_is_lowest: bool) -> dict[str, Any]:
    """Keeps the latest and the best; orbax's own `best_fn` would drop the latest."""

    def score(metrics) -> float:
        value = (metrics or {}).get(best)
        if value is None or not math.isfinite(value):
            return -math.inf  # one NaN in the ranking would keep the wrong ones
        return -value if best_is_lowest else value

    kept = [policies.LatestN(keep)]
    if best is not None:
        kept.append(
            policies.BestN(
                get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False
            )
        )
    # best_fn does not choose here; without it orbax stores no metrics.
    return dict(best_fn=score, preservation_policy=policies.AnyPreservationPolicy(kept))


def sealed(data: Mapping[str, Any], digests: Mapping[str, int]) -> dict[str, Any]:
    """Returns the `data` item of a checkpoint, with a checksum of itself."""
    text = json.dumps([data, digests], sort_keys=True)
    return {"data": data, "digests": digests, "crc32": zlib.crc32(text.encode())}


def shapes_in(manager: ocp.CheckpointManager, step: int) -> PyTree:
    """Returns the arrays of a checkpoint as metadata; reads no array."""
    return manager.item_metadata(step)["state"].tree


def read_verified(manager, step: int, wanted: PyTree) -> tuple[PyTree, dict[str, Any]]:
    """Reads the wanted arrays, as NumPy where no sharding is given, and verifies."""

    def args(x):
        sharding = x.sharding if isinstance(x, jax.ShapeDtypeStruct) else None
        if sharding is None:
            return ocp.RestoreArgs(restore_type=np.ndarray)
        return ocp.ArrayRestoreArgs(sharding=sharding, global_shape=x.shape)

    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), wanted)
    restored = manager.restore(
        step,
        args=ocp.args.Composite(
            state=ocp.args.PyTreeRestore(
                shapes, restore_args=jax.tree.map(args, wanted), partial_restore=True
            ),
            data=ocp.args.JsonRestore(),
        ),
    )
    data, stored = restored["data"]["data"], restored["data"]["digests"]
    if restored["data"] != sealed(data, stored):
        raise ValueError("the position in the data was changed")
    wrong = [
        name for name, d in digests(restored["state"]).items() if stored[name] != d
    ]
    if wrong:
        raise ValueError(f"stored and read digests differ in {len(wrong)}: {wrong[:3]}")
    return restored["state"], data
