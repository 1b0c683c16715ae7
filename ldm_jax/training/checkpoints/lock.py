# SPDX-License-Identifier: Apache-2.0
"""One run per working directory: two would delete each other's checkpoints."""

import contextlib
import json
import os
import socket
import threading
import time
from pathlib import Path

# A lock of another machine counts as left behind when it was not renewed for so long.
STALE_SECONDS = 600.0
RENEW_SECONDS = 60.0


class Unusable(RuntimeError):
    """Raised where a working directory cannot be worked in as it is."""


class RunLock:
    """A file that names the process working in a directory.

    Taken over when its owner is gone: on this machine, when no such process runs; on
    another one, when the file was not renewed for STALE_SECONDS.
    """

    def __init__(self, directory: str | os.PathLike):
        """Takes the lock.

        Raises:
          Unusable: another run works in the directory.
        """
        self._path = Path(directory) / "run.lock"
        self._owner = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process_started": _process_started(os.getpid()),
            "start": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        }
        mine = self._path.with_name(f"run.lock.{os.getpid()}")
        mine.write_text(json.dumps(self._owner))
        try:
            self._acquire(mine)
        finally:
            mine.unlink(missing_ok=True)
        self._released = threading.Event()
        threading.Thread(target=self._renew, daemon=True).start()

    def _acquire(self, mine: Path) -> None:
        for _ in range(3):
            try:
                os.link(mine, self._path)  # atomic, and fails where a lock exists
                return
            except FileExistsError:
                self._remove_if_stale()
        raise Unusable(f"{self._path} keeps coming back; is another run starting?")

    def _remove_if_stale(self) -> None:
        try:
            owner = json.loads(self._path.read_text())
            age = time.time() - self._path.stat().st_mtime
        except FileNotFoundError:
            return
        except ValueError:
            owner, age = {}, float("inf")
        if owner.get("host") == self._owner["host"]:
            started = _process_started(owner["pid"])
            is_alive = started is not None and started == owner["process_started"]
        else:
            is_alive = age < STALE_SECONDS
        if is_alive:
            raise Unusable(
                f"{self._path.parent} is in use by process {owner['pid']} on "
                f"{owner['host']}, started {owner['start']}; stop it, choose another "
                f"workdir, or, if it is surely gone, delete {self._path}."
            )
        self._path.unlink(missing_ok=True)

    def _renew(self) -> None:
        """Tells runs on other machines that this one lives.

        In a thread: nothing else comes often enough while a step is compiled or a model
        is evaluated. What hangs is ended by the watchdog.
        """
        while not self._released.wait(RENEW_SECONDS):
            # A file system that does not answer for a while is no reason to stop.
            with contextlib.suppress(OSError):
                os.utime(self._path)

    def release(self) -> None:
        """Gives the directory back."""
        self._released.set()
        self._path.unlink(missing_ok=True)


def _process_started(pid: int) -> str | None:
    """Returns what tells a process from a later one of the same id; None if gone."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # alive, and another user's
    try:
        # Field 22, in clock ticks after boot; the name in brackets may hold spaces.
        stat = Path(f"/proc/{pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[19]
    except OSError:
        return "unknown"
