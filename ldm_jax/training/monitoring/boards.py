# SPDX-License-Identifier: Apache-2.0
"""Writes a run's metrics to TensorBoard files, and on request to Weights & Biases."""

import importlib
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ldm_jax.files.errors import naming
from ldm_jax.files.formats.structured import read_json
from ldm_jax.files.write_errors import write_error
from ldm_jax.files.writing import write_json
from ldm_jax.training.monitoring.histograms import Histogram


class Board(Protocol):
    """Receives the metrics of a run."""

    def scalars(self, step: int, row: Mapping[str, float]) -> None:
        """Adds the values of a step by name."""
        ...

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Adds a picture, uint8 [H, W, 3]."""
        ...

    def histogram(self, step: int, name: str, values: Histogram) -> None:
        """Adds a distribution of values."""
        ...

    def close(self) -> None:
        """Writes pending data."""
        ...


class TensorBoard:
    """Writes event files in `<workdir>/tensorboard`.

    A thread writes them, so every method may raise the WriteError of an earlier call.
    """

    def __init__(self, workdir: Path, step: int):
        """Opens the files; entries after `step` are no longer shown."""
        import tensorboardX  # which imports PyTorch, where that is installed

        self._folder = workdir / "tensorboard"
        self._errors: list[OSError] = []
        self._writer = tensorboardX.SummaryWriter(
            str(self._folder), purge_step=step + 1
        )
        file_writer: Any = self._writer.file_writer
        events = file_writer.event_writer._ev_writer
        for name in ("write_event", "flush", "close"):
            setattr(events, name, self._keeping_errors(getattr(events, name)))

    def _keeping_errors(self, write: Callable) -> Callable:
        """Returns a function that keeps the errors of `write` for the next call.

        Raised in the thread, they would end it with a traceback. Its queue holds ten
        entries, so the run would then wait forever for a place in it. Files that are
        still open when the process ends are closed by the library.
        """

        def run(*args):
            try:
                return write(*args)
            except OSError as error:
                self._errors.append(error)

        return run

    def _raise_error(self) -> None:
        """Raises the first error of the thread, with path and free space."""
        if self._errors:
            raise write_error(self._folder, self._errors[0], "TensorBoard's files")

    def scalars(self, step: int, row: Mapping[str, float]) -> None:
        """Adds one chart per name."""
        self._raise_error()
        for name, value in row.items():
            self._writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Adds a picture, uint8 [H, W, 3]."""
        self._raise_error()
        self._writer.add_image(name, image, step, dataformats="HWC")

    def histogram(self, step: int, name: str, values: Histogram) -> None:
        """Adds a distribution with the bins of `values`."""
        self._raise_error()
        self._writer.add_histogram_raw(
            name,
            min=float(values.edges[0]),
            max=float(values.edges[-1]),
            num=int(values.counts.sum()),
            sum=float(values.total),
            sum_squares=float(values.sum_of_squares),
            bucket_limits=values.edges[1:].tolist(),
            bucket_counts=values.counts.tolist(),
            global_step=step,
        )

    def close(self) -> None:
        """Writes pending events and closes the files."""
        self._writer.close()
        self._raise_error()


def import_wandb(project: str) -> Any:
    """Returns the package `wandb`, which logs to a project.

    Raises:
      ValueError: it is not installed.
    """
    try:
        return importlib.import_module("wandb")
    except ImportError as error:
        raise ValueError(
            f'train.wandb="{project}" needs the package wandb, which is not '
            "installed: pip install 'ldm_jax[wandb]', or leave it empty."
        ) from error


class WeightsAndBiases:
    """Writes to a run of wandb.ai (or a local one, with WANDB_MODE=offline)."""

    def __init__(self, workdir: Path, project: str, config: Mapping[str, Any] | None):
        """Starts a run, or resumes the one whose id is in `workdir`.

        Raises:
          ValueError: the package `wandb` is not installed.
        """
        self._wandb = import_wandb(project)
        name = workdir / "wandb.json"
        if not name.exists():
            write_json(name, {"id": uuid.uuid4().hex[:12]})
        with naming(name, "must hold the id of the run; without it a new run starts"):
            run_id = str(read_json(name)["id"])
        self._run = self._wandb.init(
            project=project,
            id=run_id,
            name=workdir.resolve().name,
            dir=str(workdir),
            config=dict(config or {}),
            resume="allow",
        )
        # The counter of steps of wandb cannot go back to where a killed run resumes.
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, row: Mapping[str, float]) -> None:
        """Logs the values, and the step as a metric."""
        self._run.log({**row, "step": step})

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Logs a picture, uint8 [H, W, 3]."""
        self._run.log({name: self._wandb.Image(image), "step": step})

    def histogram(self, step: int, name: str, values: Histogram) -> None:
        """Logs a distribution with the bins of `values`."""
        pair = (values.counts, values.edges)
        histogram = self._wandb.Histogram(np_histogram=pair)
        self._run.log({name: histogram, "step": step})

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()
