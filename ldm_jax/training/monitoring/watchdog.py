# SPDX-License-Identifier: Apache-2.0
"""Ends a process that hangs, with the stacks of its threads, so that it can restart."""

import contextlib
import faulthandler
import os
import sys
import threading
import time

# sysexits.h: "temporary failure"; start the same command again.
EXIT_HANGS = 75
# The interpreter itself may hang, and with it the watching thread: a timer outside of
# the interpreter ends the process this much later.
GRACE_SECONDS = 10.0


# Phases without a limit: how long they should take is not known.
UNWATCHED = ("start", "compile", "evaluation")


class Watchdog:
    """Ends the process if a phase takes too long.

    Otherwise a lost host, a dead file system or a device that does not answer would
    block a whole pod.
    """

    def __init__(self, seconds: float | None):
        """Takes the limit in seconds of everything watched; None watches nothing."""
        self._seconds = seconds
        self.step = 0
        self._what, self._deadline = "", None
        self._end = threading.Event()
        self._thread = None

    def enter(self, phase: str) -> None:
        """Restarts the clock for a phase of `Ledger` in the current step."""
        is_watched = phase not in UNWATCHED
        self.watch(f'the phase "{phase}" of step {self.step}' if is_watched else None)

    def watch(self, what: str | None) -> None:
        """Restarts the clock for a phase; None watches nothing.

        Does nothing outside the context.
        """
        if self._thread is None or self._seconds is None:
            return
        self._what = what or ""
        if what is None:
            self._deadline = None
            faulthandler.cancel_dump_traceback_later()
            return
        self._deadline = time.monotonic() + self._seconds
        later = self._seconds + GRACE_SECONDS
        with contextlib.suppress(OSError, ValueError):  # stderr may be no file
            faulthandler.dump_traceback_later(later, exit=True)

    def __enter__(self):
        if self._seconds is not None:
            self._end.clear()
            self._thread = threading.Thread(
                target=self._run, args=(self._seconds,), daemon=True
            )
            self._thread.start()
        return self

    def __exit__(self, *_):
        self.watch(None)
        self._end.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self, seconds: float) -> None:
        while not self._end.wait(min(1.0, seconds / 4)):
            deadline = self._deadline
            if deadline is not None and time.monotonic() > deadline:
                self._give_up()

    def _give_up(self) -> None:
        print(
            f"\n{self._what} did not end within {self._seconds:g} s "
            "(train.step_timeout): this process gives up. The same command resumes "
            "from the last checkpoint. Stacks of its threads:",
            file=sys.stderr,
            flush=True,
        )
        with contextlib.suppress(OSError, ValueError):
            faulthandler.dump_traceback(all_threads=True)
        os._exit(EXIT_HANGS)  # sys.exit would wait for the threads that hang
