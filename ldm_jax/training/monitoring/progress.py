# SPDX-License-Identifier: Apache-2.0
"""Formats progress lines: the rate, the time left, a process that lags behind."""

import math
import time
from collections.abc import Sequence

# Between two lines: on a terminal a line is written over, elsewhere it stays.
SECONDS_ON_TERMINAL = 0.5
SECONDS_BETWEEN_LINES = 15.0


class Rate:
    """Measures steps per second between two lines, without the pauses."""

    def __init__(self):
        self.restart(0)

    def restart(self, step: int) -> None:
        """Resets the measurement, which starts again at `step`."""
        self._step, self._since, self._rate = step, time.monotonic(), 0.0

    def at(self, step: int, on_terminal: bool, always: bool) -> float | None:
        """Returns steps per second if a line is due, or `always`."""
        passed = time.monotonic() - self._since
        due = SECONDS_ON_TERMINAL if on_terminal else SECONDS_BETWEEN_LINES
        if passed < due and not always:
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


def format_progress(
    rate: float, batch_size: int, utilization: float | None, seconds_left: float
) -> str:
    """Formats a rate (steps per second), the share of the peak, the time left."""
    step = "? s/step" if not rate else f"{1 / rate:.3g} s/step"
    share = "" if utilization is None else f"  {utilization:.1%} of peak"
    images = (
        f"{rate * batch_size:.3g}"
        if rate * batch_size < 100
        else (f"{rate * batch_size:.0f}")
    )
    return f"{step}  {images} images/s{share}  {_minutes(seconds_left)} left"


def describe_slowest(waits: Sequence[float], seconds_per_step: float) -> str | None:
    """Names the process that holds the others up, or returns None.

    Args:
      waits: seconds per step that each process waited for its batches.
      seconds_per_step: of the whole run, in which all wait for the slowest.
    """
    slowest, quickest = max(waits), min(waits)
    # A tenth of a step, and enough to be no accident.
    if slowest - quickest < max(0.1 * seconds_per_step, 0.05):
        return None
    return (
        f"process {list(waits).index(slowest)} waits {slowest:.3g} s a step for its "
        f"batches, the quickest {quickest:.3g} s; a step takes {seconds_per_step:.3g} s"
    )


def _minutes(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(int(seconds + 0.5), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d}"
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
