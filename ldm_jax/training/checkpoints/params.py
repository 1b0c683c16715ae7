# SPDX-License-Identifier: Apache-2.0
"""Writes and reads the parameters of a model directory, without a run."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from absl import logging

from ldm_jax.files.errors import MissingFile, UnreadableFile
from ldm_jax.files.outputs import check_holds_checkpoints
from ldm_jax.files.paths import PathLike, resolve
from ldm_jax.files.stores.store_errors import reaching
from ldm_jax.parallel import sharding
from ldm_jax.training.checkpoints.checkpointer import Checkpointer
from ldm_jax.training.checkpoints.compact import COMPACT_FILE, read_compact
from ldm_jax.training.checkpoints.damage import (
    check_claims,
    proof_of_damage,
    unreadable,
)
from ldm_jax.training.checkpoints.digest import params_fingerprint
from ldm_jax.training.checkpoints.orbax_options import (
    open_steps,
    read_verified,
    shapes_in,
)
from ldm_jax.training.checkpoints.settings import Settings
from ldm_jax.training.state import TrainState
from ldm_jax.types import PyTree


def save_params(
    directory: str,
    params: PyTree,
    config: Mapping[str, Any],
    may_change: Callable[[str], bool] = lambda name: False,
) -> None:
    """Writes a model directory that holds parameters only, as step 0.

    Args:
      directory: made if missing; the checkpoint of one that holds this model already is
        left as it is.
      params: pytree of arrays, an entry per network.
      config: settings of the model, JSON-able.
      may_change: dotted name of a setting -> whether it may differ from that of a model
        that is there.

    Raises:
      ValueError: the directory holds a model with other settings.
    """
    state = TrainState(
        step=np.zeros((), np.int32), params=params, opt_state={}, collections={}, ema={}
    )
    if jax.process_count() == 1:
        placed = jax.tree.map(_native, state)
    else:  # global arrays, of which every process has a complete copy
        placed = sharding.place(state, sharding.make_mesh(), min_shard_mib=math.inf)
    with Checkpointer(directory, Settings(config, may_change)) as checkpointer:
        checkpointer.save(placed, {})
        checkpointer.wait()


def save_copy(
    directory: str,
    params: PyTree,
    config: Mapping[str, Any],
    network: str,
    may_change: Callable[[str], bool] = lambda name: False,
) -> None:
    """Copies a network that a run reads into the run's directory, unless it is there.

    Args:
      directory, params, config, may_change: of `save_params`.
      network: what it is, for the error: "first stage".

    Raises:
      ValueError: the run began with another one.
    """
    is_there = (resolve(directory) / "checkpoints").exists()
    save_params(directory, params, config, may_change)
    if not is_there:
        return
    kept, given = params_fingerprint(load_params(directory)), params_fingerprint(params)
    if kept != given:
        raise ValueError(
            f"a run keeps the {network} that it began with: {directory} is {kept}, got "
            f"{given}; name the first one, or give another --workdir."
        )


def _native(x: Any) -> np.ndarray:
    """Converts to an array of this machine's byte order, in which it is read back."""
    array = np.asarray(x)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def load_params(
    directory: PathLike, which: str = "ema", step: int | None = None
) -> PyTree:
    """Reads the parameters of a model directory, on the host.

    Args:
      directory: holds `checkpoints/`.
      which: "ema" takes the averaged networks and the raw ones of the rest; "raw"
        takes all as trained.
      step: which checkpoint; None takes the newest undamaged one.

    Returns:
      Pytree of NumPy arrays, an entry per network.

    Raises:
      ValueError: `which` is neither, or there is no checkpoint of that step.
      MissingFile: there is no undamaged checkpoint.
      UnreadableFile: the folder is not one of checkpoints.
      StoreError: a URL that cannot be read.
      Unusable: one could not be read, and is not proven to be damaged.
    """
    if which not in ("ema", "raw"):
        raise ValueError(f'which must be "ema" or "raw": got {which!r}.')
    path = resolve(directory) / "checkpoints"
    with reaching(directory):
        if (resolve(directory) / COMPACT_FILE).exists():
            _refuse_step(directory, step, [])
            return read_compact(directory)
        is_there = path.is_dir()
    if not is_there:
        raise MissingFile(f"{directory} is not a model directory: no checkpoints/.")
    check_holds_checkpoints(path, "this directory")
    with reaching(path):
        opened = open_steps(path, create=False)
    with opened as manager:
        steps = sorted(manager.all_steps(), reverse=True)
        _refuse_step(directory, step, steps)
        steps = steps if step is None else [step]
        for candidate in steps:
            try:
                shapes_stored = shapes_in(manager, candidate)
                shapes_stored = {
                    name: shapes_stored.get(name, {}) for name in ("params", "ema")
                }
                check_claims(path / str(candidate), shapes_stored)
                if which == "raw":
                    shapes_stored.pop("ema")
                tree, _ = read_verified(manager, candidate, shapes_stored)
            except UnreadableFile:
                raise
            except Exception as error:
                proof = proof_of_damage(error, path / str(candidate))
                if proof is None:
                    raise unreadable(path / str(candidate), error) from error
                logging.warning("checkpoint %d is skipped: %s", candidate, proof)
                continue
            return {**tree["params"], **tree.get("ema", {})}
    if not steps:
        raise MissingFile(
            f"{directory} has no checkpoint yet: a training stores the first after "
            "config.train.checkpoint_every steps, or when it is stopped; wait for it, "
            "or run the training again."
        )
    raise MissingFile(f"no undamaged checkpoint in {path}; tried {steps}.")


def _refuse_step(directory: PathLike, step: int | None, steps: list[int]) -> None:
    """Raises ValueError for a step that is not among those of the checkpoints."""
    if step is not None and step not in steps:
        there = ", ".join(map(str, reversed(steps))) or "none"
        raise ValueError(
            f"step (--step) must be that of a checkpoint in {directory}: got {step}, "
            f"there are {there}; config.train.keep says how many are kept."
        )
