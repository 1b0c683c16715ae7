# SPDX-License-Identifier: Apache-2.0
"""Decides when an action is due: every number of steps, or of seconds."""

import time

import jax

from ldm_jax.parallel.hosts import agreed
from ldm_jax.types import PyTree


def divides(every: int | None, step: int) -> bool:
    """Returns whether `step` is a multiple of `every`; never where that is None."""
    return every is not None and step % every == 0


class Due:
    """Decides when a checkpoint is due, by steps or by time."""

    def __init__(self, every: int | None, seconds: float | None, check_every: int):
        """Takes the period in steps and in seconds, and how often to read the clock."""
        self._every, self._seconds, self._check_every = every, seconds, check_every
        self._since = time.monotonic()

    def now(self, step: int, results: PyTree = ()) -> bool:
        """Returns whether one is due after `step`; every process must call it."""
        is_due = divides(self._every, step)
        # All processes must agree on the time, which costs a message: not every step.
        if self._seconds is not None and (
            jax.process_count() == 1 or step % self._check_every == 0
        ):
            if jax.process_count() > 1:
                jax.block_until_ready(results)  # see `agreed`
            is_due |= agreed(time.monotonic() - self._since >= self._seconds)
        if is_due:
            self._since = time.monotonic()
        return is_due
