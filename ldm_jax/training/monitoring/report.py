# SPDX-License-Identifier: Apache-2.0
"""Reports the progress of a run: on the terminal, in files and on boards.

Process 0 writes into the working directory: `metrics.jsonl`, a row per `every` steps
with the means over them (of the learning rate, the last one); `evaluation.jsonl`, a row
per evaluation; `timing.jsonl`, see `timing`; `images/`; `tensorboard/`; `report.html`,
which shows all of it.
"""

import contextlib
import math
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from ldm_jax.files.formats.png import save_png
from ldm_jax.files.outputs import check_kinds
from ldm_jax.files.paths import printable_lines
from ldm_jax.files.write_errors import reported
from ldm_jax.parallel.hosts import agreed, is_main_process
from ldm_jax.training.monitoring.boards import Board, TensorBoard, WeightsAndBiases
from ldm_jax.training.monitoring.divergence import DivergenceGuard
from ldm_jax.training.monitoring.goodput import Ledger, format_goodput
from ldm_jax.training.monitoring.histograms import Histogram
from ldm_jax.training.monitoring.metric_rows import append_row, drop_rows, read_rows
from ldm_jax.training.monitoring.mirror import READ_BACK, Mirror
from ldm_jax.training.monitoring.page import PAGE, write_report
from ldm_jax.training.monitoring.progress import Rate, format_progress
from ldm_jax.training.monitoring.timing import Timing
from ldm_jax.types import Array

# Steps whose metrics may be pending: the host never waits for the step that it has just
# started, and is at most this many steps ahead.
STEPS_AHEAD = 2
# Metrics whose row holds the value of its last step instead of the mean.
LAST = ("learning_rate",)


class Report:
    """Collects the metrics of every step; only process 0 writes."""

    def __init__(
        self,
        workdir: str,
        num_steps: int,
        every: int,
        *,
        batch_size: int,
        num_records: int | None = None,
        guard: DivergenceGuard,
        ledger: Ledger | None = None,
        label: str = "train",
        utilization: Callable[[float], float] | None = None,
        wandb: str = "",
        config: Mapping[str, Any] | None = None,
    ):
        """Opens nothing yet; see `start`.

        Args:
          workdir: directory of the files.
          num_steps: the last step, for the time left.
          every: steps per row.
          batch_size: images per step, for the rate.
          num_records: of the data set, for the epochs; None where it is not known.
          guard: ends the run when its steps are not finite.
          ledger: of the run's time; None starts one.
          label: the first word of the progress line.
          utilization: steps per second -> share of the devices' peak in [0, 1].
          wandb: project of Weights & Biases; "" for none.
          config: the run's settings, which Weights & Biases shows.

        Raises:
          OSError: a file or folder that will be written is one of the other kind.
        """
        self._label, self._mirror = label, Mirror(workdir)
        self._workdir = self._mirror.folder
        self._num_steps, self._every = num_steps, every
        self._batch_size, self._guard = batch_size, guard
        self._num_records = num_records
        self._ledger = ledger or Ledger()
        self._utilization = utilization
        self._wandb, self._config = wandb, config
        self._pending: deque[tuple[int, dict[str, Array]]] = deque()
        self._sums: dict[str, float] = {}
        self._count = 0
        self._writes = is_main_process()
        if self._writes:
            check_kinds(self._workdir, (*READ_BACK, PAGE), ("images", "tensorboard"))
        self._timing = Timing(self._workdir, batch_size, self._ledger, utilization)
        self._boards: list[Board] = []
        self._rate = Rate()

    def start(self, step: int, saved: Mapping[str, Any] | None = None) -> None:
        """Begins or continues at `step`: rows past it are dropped from the files."""
        if saved is not None:
            self._sums = dict(saved["sums"])
            self._count = saved["count"]
            self._guard.in_a_row = saved["skipped_run"]
        if not self._writes:
            return
        self._mirror.fetch()
        for name in ("metrics.jsonl", "evaluation.jsonl"):
            drop_rows(self._workdir / name, step)
        self._boards = [TensorBoard(self._workdir, step)]
        if self._wandb:
            board = WeightsAndBiases(self._workdir, self._wandb, self._config)
            self._boards.append(board)
        if step:
            self.log(f"resumes at step {step} of {self._num_steps}")

    @property
    def folder(self) -> str:
        """The folder for files of this run: `workdir`, or its local copy."""
        return str(self._workdir)

    def log(self, message: str) -> None:
        """Prints a line about the run."""
        if self._writes:
            start = "\r\033[K" if sys.stdout.isatty() else ""
            text = printable_lines(f"{self._label}: {message}")
            print(start + text, flush=True)

    def show(self, text: str) -> None:
        """Prints lines without the run's label."""
        if self._writes:
            print(printable_lines(text), flush=True)

    def begin_steps(self, step: int) -> None:
        """Records that this process trains from `step` on; its time starts here."""
        self._timing.begin(step)

    def add(self, step: int, metrics: Mapping[str, Array]) -> None:
        """Takes the metrics of a step that may still be running.

        Raises:
          Diverged: too many steps in a row were skipped.
        """
        for value in metrics.values():
            if isinstance(value, jax.Array):
                value.copy_to_host_async()
        self._pending.append((step, dict(metrics)))
        if len(self._pending) > STEPS_AHEAD:
            self._take(1)

    def finish_pending(self) -> None:
        """Waits for the steps that are still running and takes their metrics."""
        self._take(len(self._pending))

    def state(self) -> dict[str, Any]:
        """Returns the state with which `start` continues the current row.

        Called for every checkpoint: what was written so far is in place afterwards.
        """
        self.finish_pending()
        if self._writes:
            self._mirror.push()
        return dict(
            sums=dict(self._sums), count=self._count, skipped_run=self._guard.in_a_row
        )

    def _take(self, count: int) -> None:
        for _ in range(count):
            step, metrics = self._pending.popleft()
            jax.block_until_ready(metrics)  # on every device; to read takes the first
            values = {name: float(v) for name, v in jax.device_get(metrics).items()}
            self._sum(values)
            self._guard.check(step, values)
            if step % self._every == 0 or step == self._num_steps:
                self._write_row(step)
                self._write_timing(step)
            self._progress(step, values)

    def _sum(self, values: dict[str, float]) -> None:
        """Adds one step to the row; a skipped step only counts as skipped."""
        skipped = values.pop("skipped")
        self._sums["skipped"] = self._sums.get("skipped", 0.0) + skipped
        if not skipped:
            self._count += 1
            for name, value in values.items():
                before = 0.0 if name in LAST else self._sums.get(name, 0.0)
                self._sums[name] = before + value
        values["skipped"] = skipped

    def _write_row(self, step: int) -> None:
        skipped = self._sums.pop("skipped", 0.0)
        row = {
            name: total if name in LAST else total / max(self._count, 1)
            for name, total in self._sums.items()
        }
        row |= {"skipped": skipped, "images": step * self._batch_size}
        if self._num_records:
            row["epochs"] = row["images"] / self._num_records
        self._sums, self._count = {}, 0
        self._append("metrics.jsonl", step, row)

    def _write_timing(self, step: int) -> None:
        row, slowest = self._timing.add(step, [metrics for _, metrics in self._pending])
        for board in self._boards:
            board.scalars(step, {f"time/{name}": v for name, v in row.items()})
        if slowest:
            self.log(slowest)

    def evaluation(
        self, step: int, scalars: Mapping[str, float], images: Mapping[str, Any]
    ) -> None:
        """Writes evaluation scalars, and pictures as `images` does."""
        scalars = {name: float(value) for name, value in scalars.items()}
        if scalars:
            line = ", ".join(f"{name} {value:.4g}" for name, value in scalars.items())
            self.log(f"step {step}: {line}")
        self.images(step, images)
        self._append("evaluation.jsonl", step, scalars, prefix="evaluation/")
        if self._writes:
            write_report(self._workdir, self._label, self._config)

    def has_evaluation(self, step: int) -> bool:
        """Returns whether a step was evaluated, also by an earlier attempt."""
        rows = read_rows(self._workdir / "evaluation.jsonl") if self._writes else []
        return agreed(any(row["step"] == step for row in rows))

    def images(self, step: int, images: Mapping[str, Any]) -> None:
        """Writes pictures, uint8 [H, W, 3] by name: images/<name>_<step>.png."""
        if not self._writes:
            return
        for name, image in images.items():
            image = np.asarray(image, np.uint8)
            save_png(self._workdir / "images" / f"{name}_{step:08d}.png", image)
            for board in self._boards:
                board.image(step, name, image)

    def histograms(self, step: int, values: Mapping[str, Histogram]) -> None:
        """Shows how the numbers of each array are spread, on the boards."""
        for board in self._boards:
            for name, histogram in values.items():
                board.histogram(step, name, histogram)

    def _append(self, file: str, step: int, row: dict[str, float], prefix="") -> None:
        if not self._writes:
            return
        append_row(self._workdir / file, {"step": step, **row})
        for board in self._boards:
            board.scalars(step, {prefix + name: value for name, value in row.items()})

    def _progress(self, step: int, values: Mapping[str, float]) -> None:
        is_last = step == self._num_steps
        on_terminal = sys.stdout.isatty()
        rate = self._rate.at(step, on_terminal, always=is_last)
        if rate is None or not self._writes:
            return
        share = self._utilization(rate) if self._utilization and rate else None
        left = (self._num_steps - step) / rate if rate else math.inf
        text = format_progress(rate, self._batch_size, share, left)
        loss, learning_rate = values["loss"], values.get("learning_rate")
        if learning_rate is not None:
            text = f"lr {learning_rate:.3g}  {text}"
        text = f"{self._label}: step {step}/{self._num_steps}  loss {loss:.4f}  {text}"
        if on_terminal:
            print(f"\r\033[K{text}", end="\n" if is_last else "", flush=True)
        else:
            print(text, flush=True)

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Context manager of an evaluation, whose time does not count for the rate."""
        with self._rate, self._ledger.phase("evaluation"):
            yield

    def restart_clock(self, step: int) -> None:
        """Restarts measuring the rate."""
        self._rate.restart(step)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Writes pending rows, and how the time was spent."""
        with reported(self._workdir, "what the boards show", every=True):
            for board in self._boards:
                board.close()
        if self._writes:
            if shares := self._timing.end():
                self.log(f"time since the first start: {format_goodput(shares)}")
            # The run may have been killed between its last step and the page.
            is_missing = not (self._workdir / PAGE).exists()
            has_rows = (self._workdir / "metrics.jsonl").exists()
            if self._timing.has_begun or (is_missing and has_rows):
                write_report(self._workdir, self._label, self._config)
            self._mirror.close()
