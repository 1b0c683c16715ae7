# SPDX-License-Identifier: Apache-2.0
"""Runs the requests of the demo page one at a time."""

import threading
import time


class Turns:
    """Context manager of one request; entering it waits for the earlier ones."""

    def __init__(self):
        self._running = threading.Lock()
        self._counting = threading.Lock()
        self._entered, self._began = 0, 0.0

    def __enter__(self) -> "Turns":
        with self._counting:
            self._entered += 1
        self._running.acquire()
        self._began = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.release()
        with self._counting:
            self._entered -= 1

    def state(self) -> dict[str, int]:
        """Returns how many requests wait, and for how long the current one runs."""
        is_running = self._running.locked()
        seconds = int(time.monotonic() - self._began) if is_running else 0
        return {"waiting": max(self._entered - 1, 0), "seconds": seconds}
