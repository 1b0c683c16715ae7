# SPDX-License-Identifier: Apache-2.0
"""Saves checkpoints in the background, and verifies them when they are restored.

A working directory holds `config.json` and `checkpoints/<step>/` with three items:
`state` (the arrays of a TrainState), `data` (position in the data, report, digests of
the arrays) and `config`. It is a model directory too: `params.load_params` reads it.
"""

import contextlib
import os
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from flax import serialization
from jax.experimental import multihost_utils

from ldm_jax.files.lock import Lock, Unusable, lock_directory
from ldm_jax.files.moving import move
from ldm_jax.files.outputs import check_holds_checkpoints, check_writable
from ldm_jax.files.paths import is_remote, resolve
from ldm_jax.files.stores.lease import Lease
from ldm_jax.files.stores.store_errors import reaching
from ldm_jax.files.write_errors import reported
from ldm_jax.parallel.hosts import in_main_process, is_main_process
from ldm_jax.training.checkpoints.damage import proof_of_damage, unreadable
from ldm_jax.training.checkpoints.differences import check_structure
from ldm_jax.training.checkpoints.digest import digests
from ldm_jax.training.checkpoints.orbax_options import (
    FILE_BYTES,
    open_steps,
    read_verified,
    sealed,
    shapes_in,
)
from ldm_jax.training.checkpoints.retention import LatestAndBest
from ldm_jax.training.checkpoints.settings import Settings
from ldm_jax.training.state import TrainState


class Checkpointer:
    """Saves and restores the training state of a working directory."""

    def __init__(
        self,
        workdir: str,
        settings: Settings | None = None,
        *,
        keep: int = 2,
        best: str | None = None,
        best_is_lowest: bool = True,
        keep_every: int | None = None,
    ):
        """Opens the directory, which is made if it is missing.

        Args:
          workdir: path; may be remote (gs://...), then with a lease for a lock.
          settings: of the run; None writes and compares none.
          keep: how many of the latest checkpoints stay.
          best: name of an evaluation scalar; the best checkpoint by it stays as well.
          best_is_lowest: whether low values of `best` are good.
          keep_every: multiples of this step stay as well; None for none.

        Raises:
          Unusable: another run works in the directory.
          ValueError: the directory belongs to a run with other settings.
          OSError: the directory cannot be written.
        """
        self._workdir = resolve(workdir)
        self._lock = in_main_process(self._take)
        self._workdir.mkdir(parents=True, exist_ok=True)
        self._config = {} if settings is None else dict(settings.config)
        try:
            if settings is not None:
                settings.write(self._workdir)
            self._kept = LatestAndBest(
                self._workdir, keep, best, best_is_lowest, keep_every
            )
            self._manager = open_steps(
                self._workdir / "checkpoints",
                cleanup_tmp_directories=True,
                preservation_policy=self._kept,
            )
        except BaseException:
            self._release()
            raise

    def _take(self) -> Lock | Lease:
        check_holds_checkpoints(self._workdir, "--workdir")
        check_writable(self._workdir, "--workdir")
        if is_remote(self._workdir):
            return Lease(os.fspath(self._workdir))
        return lock_directory(self._workdir)

    def _check_lease(self) -> None:
        if isinstance(self._lock, Lease):
            self._lock.check()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        # `close` repeats the error of a checkpoint that could not be written.
        first_error_counts = contextlib.suppress(*([OSError] if kind else []))
        try:
            with first_error_counts, self._writing():
                self._manager.close()
        finally:
            self._release()

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        """Turns errors of writing a checkpoint into an OSError of one line."""
        if is_remote(self._workdir):
            return reaching(self._workdir, "written")
        return reported(self._workdir, "a checkpoint", every=True)

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def save(self, state: TrainState, data: Mapping[str, Any]) -> None:
        """Starts writing a checkpoint of `state.step`; returns once it is copied.

        Args:
          state: the state; may be donated afterwards.
          data: JSON-able, what `restore` gives back.

        Raises:
          OSError: this checkpoint or the one before could not be written; those
            before it are intact.
          Unusable: another run took the directory, on a store.
        """
        if is_remote(self._workdir):
            in_main_process(self._check_lease)
        step = int(state.step)
        if step in self._manager.all_steps():
            return  # resumed and stopped at once
        tree = serialization.to_state_dict(state)
        items = dict(
            state=ocp.args.PyTreeSave(tree, ocdbt_target_data_file_size=FILE_BYTES),
            data=ocp.args.JsonSave(sealed(data, digests(tree))),
            config=ocp.args.JsonSave(self._config),
        )
        with self._writing():
            self._manager.save(step, args=ocp.args.Composite(**items))

    def note(self, step: int, scalars: Mapping[str, float]) -> None:
        """Stores the evaluation scalars of a step, by which the best one is kept.

        Raises:
          ValueError: `best` is not among them.
        """
        self._kept.note(step, scalars, self._manager.all_steps())

    def newest(self) -> int | None:
        """Returns the step of the newest complete checkpoint on disk, or None."""
        with contextlib.suppress(Exception):  # what cannot be written is not there
            self._manager.wait_until_finished()
        return max(self._manager.all_steps(), default=None)

    def wait(self) -> None:
        """Waits until the last checkpoint is written; errors as for `save`."""
        with self._writing():
            self._manager.wait_until_finished()

    def restore(self, shapes: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """Reads the newest undamaged checkpoint.

        One that is proven to be damaged is moved to `damaged/` in the working
        directory, with a warning.

        Args:
          shapes: TrainState of jax.ShapeDtypeStruct with shardings, of any mesh.

        Returns:
          (state, the `data` passed to `save`), or None if nothing was saved.

        Raises:
          ValueError: the checkpoint's arrays are not those of this run.
          Unusable: all checkpoints are damaged, or one could not be read for
            another reason.
        """
        expected = serialization.to_state_dict(shapes)
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                stored = shapes_in(self._manager, step)
            except Exception as error:
                self._set_aside(step, error)
                continue
            check_structure(stored, expected, f"{self._workdir}, step {step}")
            try:
                tree, data = read_verified(self._manager, step, expected)
            except Exception as error:
                self._set_aside(step, error)
                continue
            state = serialization.from_state_dict(shapes, tree)
            assert isinstance(state, TrainState)  # it has the type of `shapes`
            return state, data
        damaged = self._workdir / "damaged"
        if damaged.exists() and any(damaged.iterdir()):
            raise Unusable(
                f"all checkpoints of {self._workdir} are damaged: they were moved to "
                f"{damaged}. Use another workdir to start from scratch, or delete this "
                "folder."
            )
        return None

    def _set_aside(self, step: int, error: Exception) -> None:
        """Moves a damaged checkpoint out of the way, so that its step can be redone.

        Raises:
          Unusable: nothing proves that it is damaged; it stays where it is.
        """
        checkpoint = self._workdir / "checkpoints" / str(step)
        proof = proof_of_damage(error, checkpoint)
        if proof is None:
            raise unreadable(checkpoint, error) from error
        logging.warning(
            "checkpoint %d of %s is damaged and skipped: %s", step, self._workdir, proof
        )
        if is_main_process():
            move(checkpoint, self._workdir / "damaged" / str(step))
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoint moved")
        self._manager.reload()
