# SPDX-License-Identifier: Apache-2.0
"""Where a run can be watched: TensorBoard files, and Weights & Biases if asked for."""

import importlib
import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ldm_jax.files.writing import write_json
from ldm_jax.training.monitoring.histograms import Histogram


class Board(Protocol):
    """Takes what a run tells."""

    def scalars(self, step: int, row: Mapping[str, float]) -> None: ...

    def image(self, step: int, name: str, image: np.ndarray) -> None: ...

    def histogram(self, step: int, name: str, values: Histogram) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in `<workdir>/tensorboard`."""

    def __init__(self, workdir: Path, step: int):
        """Opens them; what they hold past `step` is no longer shown."""
        import tensorboardX  # which imports PyTorch, where that is installed

        self._writer = tensorboardX.SummaryWriter(
            str(workdir / "tensorboard"), purge_step=step + 1
        )

    def scalars(self, step, row):
        for name, value in row.items():
            self._writer.add_scalar(name, value, step)

    def image(self, step, name, image):
        self._writer.add_image(name, image, step, dataformats="HWC")

    def histogram(self, step, name, values):
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

    def close(self):
        self._writer.close()


class WeightsAndBiases:
    """A run of wandb.ai (or a local one, with WANDB_MODE=offline)."""

    def __init__(self, workdir: Path, project: str, config: Mapping[str, Any] | None):
        """Begins the run, or goes on with the one whose name `workdir` holds.

        Raises:
          ValueError: the package `wandb` is not installed.
        """
        try:
            self._wandb = importlib.import_module("wandb")
        except ImportError as error:
            raise ValueError(
                f'train.wandb="{project}" needs the package wandb, which is not '
                "installed: pip install 'ldm_jax[wandb]', or leave it empty."
            ) from error
        name = workdir / "wandb.json"
        if not name.exists():
            write_json(name, {"id": uuid.uuid4().hex[:12]})
        self._run = self._wandb.init(
            project=project,
            id=json.loads(name.read_text())["id"],
            name=workdir.resolve().name,
            dir=str(workdir),
            config=dict(config or {}),
            resume="allow",
        )
        # Their own counter of steps cannot go back to where a killed run resumes.
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step, row):
        self._run.log({**row, "step": step})

    def image(self, step, name, image):
        self._run.log({name: self._wandb.Image(image), "step": step})

    def histogram(self, step, name, values):
        pair = (values.counts, values.edges)
        histogram = self._wandb.Histogram(np_histogram=pair)
        self._run.log({name: histogram, "step": step})

    def close(self):
        self._run.finish()
