# SPDX-License-Identifier: Apache-2.0
"""Tells how a run goes: a progress line, metrics.jsonl, TensorBoard, pictures."""

import json
import math
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorboardX
from PIL import Image

from ldm_jax.training.hosts import is_main_process
from ldm_jax.types import Array

# Steps whose metrics may still be on their way: the host never waits for the step that
# it has just started, and is never more than so many steps ahead.
STEPS_AHEAD = 2
SECONDS_BETWEEN_LINES = 15.0


class Diverged(RuntimeError):
    """Raised when too many steps in a row were not finite."""


class Report:
    """Collects the metrics of every step; only process 0 writes.

    `metrics.jsonl` gets a row every `every` steps: means over these steps.
    `evaluation.jsonl` gets a row per evaluation.
    """

    def __init__(
        self,
        workdir: str,
        num_steps: int,
        every: int,
        *,
        batch_size: int,
        max_skipped: int,
        label: str = "train",
    ):
        """Opens nothing yet; see `start`.

        Args:
          workdir: directory of the files.
          num_steps: the last step, for the time left.
          every: steps per row.
          batch_size: samples per step, for the rate.
          max_skipped: so many skipped steps in a row end the run.
          label: what the progress line begins with.
        """
        self._workdir, self._label = Path(workdir), label
        self._num_steps, self._every = num_steps, every
        self._batch_size, self._max_skipped = batch_size, max_skipped
        self._pending: deque[tuple[int, dict[str, Array]]] = deque()
        self._sums: dict[str, float] = {}
        self._count = 0
        self._skipped_run = 0
        self._writes = is_main_process()
        self._board = None
        self._clock = _Clock()

    def start(self, step: int, saved: Mapping[str, Any] | None = None) -> None:
        """Begins or continues at `step`: rows past it are dropped from the files."""
        if saved is not None:
            self._sums = dict(saved["sums"])
            self._count = saved["count"]
            self._skipped_run = saved["skipped_run"]
        self._clock.restart(step)
        if not self._writes:
            return
        for name in ("metrics.jsonl", "evaluation.jsonl"):
            _truncate(self._workdir / name, step)
        self._board = tensorboardX.SummaryWriter(
            str(self._workdir / "tensorboard"), purge_step=step + 1
        )
        if step:
            self.say(f"resumes at step {step} of {self._num_steps}")

    def say(self, message: str) -> None:
        """Prints a line about the run."""
        if self._writes:
            start = "\r\033[K" if sys.stdout.isatty() else ""
            print(f"{start}{self._label}: {message}", flush=True)

    def add(self, step: int, metrics: Mapping[str, Array]) -> None:
        """Takes the metrics of a step that may still be running.

        Raises:
          Diverged: too many steps in a row were skipped.
        """
        for value in metrics.values():
            value.copy_to_host_async()
        self._pending.append((step, dict(metrics)))
        if len(self._pending) > STEPS_AHEAD:
            self._take(1)

    def finish_pending(self) -> None:
        """Waits for the steps that are still running and takes their metrics."""
        self._take(len(self._pending))

    def state(self) -> dict[str, Any]:
        """Returns what `start` needs to continue the row that is being collected."""
        self.finish_pending()
        return dict(
            sums=dict(self._sums), count=self._count, skipped_run=self._skipped_run
        )

    def _take(self, count: int) -> None:
        for _ in range(count):
            step, metrics = self._pending.popleft()
            values = {name: float(v) for name, v in jax.device_get(metrics).items()}
            self._sum(values)
            self._check_divergence(step, values["skipped"])
            if step % self._every == 0 or step == self._num_steps:
                self._write_row(step)
            self._progress(step, values["loss"])

    def _sum(self, values: dict[str, float]) -> None:
        """Adds one step to the row; a skipped step only counts as skipped."""
        skipped = values.pop("skipped")
        self._sums["skipped"] = self._sums.get("skipped", 0.0) + skipped
        if not skipped:
            self._count += 1
            for name, value in values.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
        values["skipped"] = skipped

    def _check_divergence(self, step: int, skipped: float) -> None:
        self._skipped_run = self._skipped_run + 1 if skipped else 0
        if self._skipped_run >= self._max_skipped:
            first = step - self._skipped_run + 1
            raise Diverged(
                f"loss or gradient was not finite in steps {first} to {step}, which "
                f"were skipped; the last checkpoint in {self._workdir} is good. Lower "
                "the learning rate, clip the gradient (optimizer.clip_norm), or look "
                "at the data of these steps."
            )

    def _write_row(self, step: int) -> None:
        skipped = self._sums.pop("skipped", 0.0)
        row = {name: s / max(self._count, 1) for name, s in self._sums.items()}
        row["skipped"] = skipped
        self._sums, self._count = {}, 0
        self._append("metrics.jsonl", step, row)

    def evaluation(
        self, step: int, scalars: Mapping[str, float], images: Mapping[str, Any]
    ) -> None:
        """Writes evaluation scalars, and pictures as `images` does."""
        scalars = {name: float(value) for name, value in scalars.items()}
        if scalars:
            line = ", ".join(f"{name} {value:.4g}" for name, value in scalars.items())
            self.say(f"step {step}: {line}")
            self._append("evaluation.jsonl", step, scalars, prefix="evaluation/")
        self.images(step, images)

    def images(self, step: int, images: Mapping[str, Any]) -> None:
        """Writes pictures, uint8 [H, W, 3] by name: images/<name>_<step>.png."""
        if not self._writes:
            return
        for name, image in images.items():
            image = np.asarray(image, np.uint8)
            path = self._workdir / "images" / f"{name}_{step:08d}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(image).save(path)
            self._board.add_image(name, image, step, dataformats="HWC")

    def _append(self, file: str, step: int, row: dict[str, float], prefix="") -> None:
        if not self._writes:
            return
        # JSON has no NaN; null is what a reader gets instead.
        safe = {n: v if math.isfinite(v) else None for n, v in row.items()}
        with open(self._workdir / file, "a") as lines:
            lines.write(json.dumps({"step": step, **safe}) + "\n")
        for name, value in row.items():
            self._board.add_scalar(prefix + name, value, step)

    def _progress(self, step: int, loss: float) -> None:
        is_last = step == self._num_steps
        on_terminal = sys.stdout.isatty()
        seconds = 0.5 if on_terminal else SECONDS_BETWEEN_LINES
        rate = self._clock.rate(step, seconds, always=is_last)
        if rate is None or not self._writes:
            return
        left = (self._num_steps - step) / rate if rate else math.inf
        text = (
            f"{self._label}: step {step}/{self._num_steps}  loss {loss:.4f}  "
            f"{rate:.2f} steps/s  {rate * self._batch_size:.0f} samples/s  "
            f"{_minutes(left)} left"
        )
        if on_terminal:
            print(f"\r\033[K{text}", end="\n" if is_last else "", flush=True)
        else:
            print(text, flush=True)

    def pause(self):
        """Returns a context that keeps its time out of the rate (an evaluation)."""
        return self._clock

    def restart_clock(self, step: int) -> None:
        """Starts measuring the rate anew."""
        self._clock.restart(step)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Writes out what is held back."""
        if self._board is not None:
            self._board.close()


class _Clock:
    """Measures steps per second between two lines, less the pauses."""

    def restart(self, step: int) -> None:
        self._step, self._since, self._rate = step, time.monotonic(), 0.0

    def rate(self, step: int, seconds: float, always: bool) -> float | None:
        """Returns steps per second if `seconds` have passed since the last answer."""
        passed = time.monotonic() - self._since
        if passed < seconds and not always:
            return None
        # The last step may follow the line before it at once: keep that rate then.
        rate = (step - self._step) / passed if passed > 0.5 or not self._rate else None
        self._rate = rate or self._rate
        self._step, self._since = step, time.monotonic()
        return self._rate

    def __enter__(self):
        self._paused = time.monotonic()

    def __exit__(self, *_):
        self._since += time.monotonic() - self._paused


def _minutes(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    seconds = int(seconds + 0.5)
    hours, rest = divmod(seconds, 3600)
    return (
        f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
        if hours
        else (f"{rest // 60}:{rest % 60:02d}")
    )


def read_rows(path: str | Path) -> list[dict[str, float]]:
    """Reads a .jsonl file of this module; a line cut off by a kill is left out."""
    path = Path(path)
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def _truncate(path: Path, last_step: int) -> None:
    """Drops the rows past `last_step`: those steps are done again."""
    if not path.exists():
        return
    part = path.with_name(path.name + ".part")
    part.write_text(_lines(row for row in read_rows(path) if row["step"] <= last_step))
    part.replace(path)


def _lines(rows: Iterable[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)
