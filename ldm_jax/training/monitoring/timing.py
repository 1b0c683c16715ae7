# SPDX-License-Identifier: Apache-2.0
"""Writes `timing.jsonl`: how the time of a run was spent, see `goodput`."""

import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax

from ldm_jax.parallel.hosts import gathered, is_main_process
from ldm_jax.training.monitoring.goodput import PRODUCTIVE, Ledger, goodput
from ldm_jax.training.monitoring.metric_rows import append_row, read_rows
from ldm_jax.training.monitoring.progress import describe_slowest
from ldm_jax.types import PyTree


class Timing:
    """The rows of one process' time; only process 0 writes them."""

    def __init__(
        self,
        folder: pathlib.Path,
        batch_size: int,
        ledger: Ledger,
        utilization: Callable[[float], float] | None,
    ):
        """Arguments as those of `Report`; `folder` is that of the file."""
        self._path = folder / "timing.jsonl"
        self._batch_size, self._ledger = batch_size, ledger
        self._utilization = utilization
        self._writes = is_main_process()
        self._last: int | None = None  # the step of the last row

    @property
    def has_begun(self) -> bool:
        """Whether this process trains, rather than only evaluates."""
        return self._last is not None

    def begin(self, step: int) -> None:
        """Writes that this process trains from `step` on."""
        self._last = step
        if self._writes:
            row = {"event": "start", "step": step, "time": self._ledger.began}
            row |= {"processes": jax.process_count(), "devices": jax.device_count()}
            append_row(self._path, row)

    def add(self, step: int, running: PyTree) -> tuple[dict[str, float], str | None]:
        """Writes how the time since the last row was spent.

        All processes call it together.

        Args:
          step: the last one that is finished.
          running: arrays of the steps that are not, which are waited for.

        Returns:
          "seconds_per_step", and where they are known "images_per_second" and
          "utilization"; {} before `begin`. A warning of a slow process, or None.
        """
        if self._last is None:
            return {}, None
        steps, self._last = step - self._last, step
        seconds = self._ledger.take()
        each = sum(seconds.get(phase, 0.0) for phase in PRODUCTIVE) / max(steps, 1)
        row = {"seconds_per_step": each}
        if each:
            row["images_per_second"] = self._batch_size / each
            if self._utilization is not None:
                row["utilization"] = self._utilization(1 / each)
        jax.block_until_ready(running)
        waits = gathered(seconds.get("data", 0.0) / max(steps, 1))
        if self._writes:
            whole: dict[str, Any] = {**row, "step": step, "steps": steps}
            whole["seconds"] = seconds
            if len(waits) > 1:
                # By process: a row holds no lists.
                whole["data_seconds_per_step"] = {
                    str(i): w for i, w in enumerate(waits)
                }
            append_row(self._path, {**whole, "time": time.time()})
        return row, describe_slowest(waits, each)

    def end(self) -> dict[str, float]:
        """Writes the last rows, on process 0; returns `goodput`, {} before `begin`."""
        if self._last is None:
            return {}
        row = {"step": self._last, "steps": 0, "time": time.time()}
        append_row(self._path, {**row, "seconds": self._ledger.take()})
        shares = goodput(read_rows(self._path, ("time",)))
        append_row(self._path, {"event": "end", "goodput": shares, "time": time.time()})
        return shares
