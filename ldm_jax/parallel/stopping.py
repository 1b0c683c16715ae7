# SPDX-License-Identifier: Apache-2.0
"""Stops a run of one or many processes on SIGTERM or Ctrl-C, after it has saved."""

import os
import signal
import sys
import threading
import traceback
from types import FrameType, TracebackType
from typing import Any, Self

import jax
from jax.experimental import multihost_utils

from ldm_jax.parallel.environment import EXIT_WHEN_STOPPED, whole_number


class Interrupted(SystemExit):
    """Raised after a run received a signal to stop and has saved; ends the program.

    `code` is 130 after Ctrl-C. After SIGTERM (a preemption: start the same command
    again) it is 0, or LDM_JAX_EXIT_WHEN_STOPPED where a launcher has to distinguish a
    stopped run from a finished one.
    """

    def __init__(self, step: int, signum: int):
        when_stopped = whole_number(EXIT_WHEN_STOPPED) or 0
        super().__init__(130 if signum == signal.SIGINT else when_stopped)
        self.step = step


def is_everywhere(error: BaseException) -> bool:
    """Returns whether all processes raise this error at the same step."""
    return getattr(error, "is_everywhere", False)


class StopSignal:
    """Records SIGTERM and Ctrl-C, so that the loop can save before the program ends.

    With many processes SIGTERM is left to JAX's preemption service, which makes all of
    them stop at the same step; a handler of ours would disable it.

    A process that fails between two steps (at a record that it cannot read, for
    example) exits at once. A regular exit would wait for the other processes, which
    wait for this one in the next step, and all would hang for minutes.
    """

    def __init__(self) -> None:
        whole_number(EXIT_WHEN_STOPPED)  # a wrong value is reported now, not at the end
        self._signum: int | None = None
        self._previous: dict[int, Any] = {}
        self._has_stepped = False

    def __enter__(self) -> Self:
        in_main_thread = threading.current_thread() is threading.main_thread()
        if jax.process_count() == 1 and in_main_thread:
            for signum in (signal.SIGTERM, signal.SIGINT):
                self._previous[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous = {}
        others_wait = jax.process_count() > 1 and self._has_stepped
        if others_wait and isinstance(error, Exception) and not is_everywhere(error):
            traceback.print_exception(kind, error, trace)
            print(f"process {jax.process_index()} failed and exits", file=sys.stderr)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)

    def _note(self, signum: int, _: FrameType | None) -> None:
        if signum == self._signum == signal.SIGINT:  # a second Ctrl-C: exit at once
            raise KeyboardInterrupt
        self._signum = signum
        # Not print: the signal may have come in the middle of one.
        os.write(2, b"\nstopping: saves after this step\n")

    def requested(self, step: int) -> int | None:
        """Returns the signal to stop after `step`, the same on all processes, or None.

        Every process must call it once a step, with the same step.
        """
        self._has_stepped = True
        if jax.process_count() == 1:
            return self._signum
        reached = multihost_utils.reached_preemption_sync_point(step)
        return signal.SIGTERM if reached else None
