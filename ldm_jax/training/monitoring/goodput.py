# SPDX-License-Identifier: Apache-2.0
"""Accounts for the time of a run over all its attempts (its goodput).

Rows are only appended to `timing.jsonl`: one when a process starts, with its first
step, and one per report with the seconds of each phase since the previous row. Steps
that were lost and repeated are computed from these rows.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

# "start" makes or restores the state; "step" is all that has no other name: the host
# waits for the devices.
PHASES = ("start", "compile", "step", "data", "checkpoint", "evaluation")
PRODUCTIVE = ("step", "data")


class Ledger:
    """Adds up the seconds of each phase; exactly one phase is active at any time."""

    def __init__(self, on_change: Callable[[str], None] = lambda phase: None):
        """Begins in the phase "start".

        Args:
          on_change: called with the phase that begins.
        """
        self._on_change = on_change
        self.began = time.time()
        self._seconds: dict[str, float] = {}
        self._phase, self._since = "start", time.monotonic()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Context manager whose time counts as the phase `name`."""
        before = self.switch(name)
        try:
            yield
        finally:
            self.switch(before)

    def switch(self, name: str) -> str:
        """Ends the phase under way and begins another; returns the one that ended."""
        now, before = time.monotonic(), self._phase
        self._seconds[before] = self._seconds.get(before, 0.0) + now - self._since
        self._phase, self._since = name, now
        self._on_change(name)
        return before

    def take(self) -> dict[str, float]:
        """Returns the seconds of each phase since the last call."""
        self.switch(self._phase)
        seconds, self._seconds = self._seconds, {}
        return {name: round(value, 4) for name, value in seconds.items()}


def goodput(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Computes how a run's time was spent.

    Args:
      rows: of timing.jsonl, oldest first: {"event": "start", "step", "time"}, and
        {"step", "steps", "seconds": {phase: s}, "time"}; "time" is in Unix seconds.

    Returns:
      Shares of the time since the run was first started, which add up to 1: one per
      phase; "redone", the steps and batches that were lost and done again; "down",
      the time between a process' last row and the next one's start.
    """
    kept: list[list[float]] = []  # [last step, steps, {phase: seconds}]
    total: dict[str, float] = dict.fromkeys((*PHASES, "redone"), 0.0)
    first = last = None
    for row in rows:
        first = row["time"] if first is None else first
        last = row["time"]
        if row.get("event") == "start" and "step" in row:
            kept = _undo(kept, row["step"], total)
        elif row.keys() >= {"step", "steps", "seconds"}:
            for phase, seconds in row["seconds"].items():
                total[phase] = total.get(phase, 0.0) + seconds
            work = sum(row["seconds"].get(phase, 0.0) for phase in PRODUCTIVE)
            kept.append([row["step"], row["steps"], work])
    if first is None or last <= first:
        return {}
    spent = sum(total[phase] for phase in PHASES)
    wall = max(last - first, spent)
    redone = total["redone"]
    work = sum(total[phase] for phase in PRODUCTIVE)
    for phase in PRODUCTIVE:
        total[phase] *= (work - redone) / work if work else 1.0
    return {**{n: s / wall for n, s in total.items()}, "down": (wall - spent) / wall}


def _undo(kept, step: int, total: dict[str, float]) -> list:
    """Counts the work after `step` as redone; returns the rest."""
    remain = []
    for last, steps, work in kept:
        lost = min(max(last - step, 0), steps)
        part = work * lost / steps if steps else 0.0
        total["redone"] += part
        if lost < steps:
            remain.append([last - lost, steps - lost, work - part])
    return remain


def format_goodput(shares: Mapping[str, float]) -> str:
    """Formats shares as a line, the largest first, without those near zero."""
    large = sorted(shares.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {share:.1%}" for name, share in large if share >= 5e-4)
