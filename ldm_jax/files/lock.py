# SPDX-License-Identifier: Apache-2.0
"""Locks: one run per directory, one writer per result.

On one machine, and on network file systems with locks (NFS), the kernel holds the lock
(flock, by `filelock`) and releases it when the process ends, even if it is killed.
Where machines do not see each other's locks, the lock file is used: its owner renews
it, and a file that was not renewed for STALE_SECONDS counts as abandoned.
"""

import contextlib
import errno
import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock

from ldm_jax.files.formats.structured import read_json
from ldm_jax.files.outputs import check_writable
from ldm_jax.files.paths import PathLike, local, printable
from ldm_jax.files.write_errors import reported

LOCK_NAME = "run.lock"  # in a directory
# A lock of another machine counts as left behind when it was not renewed for so long.
STALE_SECONDS = 600.0
MAX_LOCK_BYTES = 4096
RENEW_SECONDS = 60.0

_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


class Unusable(RuntimeError):
    """Raised when a directory, or the place of a result, cannot be used."""


def this_process() -> dict[str, Any]:
    """Describes the owner of a lock: "host", "pid", and "start", when it was taken."""
    started = time.strftime("%Y-%m-%d %H:%M:%S %z")
    return {"host": socket.gethostname(), "pid": os.getpid(), "start": started}


def in_use_by(path: PathLike, owner: Mapping[str, Any]) -> str:
    """Returns the beginning of an error: what is locked, and by which process.

    Args:
      path: what is locked.
      owner: of `this_process` of the other one; {} where that is not known.
    """
    owner = {"pid": "unknown", "host": "a machine", "start": "just now", **owner}
    return (
        f"{printable(path)} is in use by process {owner['pid']} on "
        f"{printable(owner['host'])}, started {printable(owner['start'])}"
    )


class Lock:
    """A lock file, which names the process that holds it."""

    def __init__(self, file: Path, path: PathLike, advice: str):
        """Takes the lock without waiting.

        Args:
          file: the lock file.
          path: what it protects, for the error.
          advice: the way out for who comes second: "choose another workdir".

        Raises:
          Unusable: another process holds it.
          OSError: it cannot be written; with path and free space.
        """
        self._file, self._path, self._advice = file, path, advice
        self._host = socket.gethostname()
        # Read first: a file that another process locks is left as it is.
        before = self._owner()
        with reported(path):
            self._made = _make_folders(file.parent)
        self._lock = filelock.FileLock(
            file, timeout=0, thread_local=False, fallback_to_soft=False
        )
        with reported(path):
            has_locks = self._acquire(before)
            try:
                self._refuse_living(before, has_locks)
                # In place: a new file would not be locked.
                file.write_text(json.dumps(this_process()))
            except BaseException:
                self._lock.release()
                self._remove_folders()
                raise
        self._released = threading.Event()
        threading.Thread(target=self._renew, daemon=True).start()

    def _acquire(self, owner: dict[str, Any]) -> bool:
        """Takes the kernel's lock; returns False on file systems that have none."""
        try:
            self._lock.acquire()
        except filelock.Timeout as error:
            raise self._in_use(self._owner() or owner) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return False
        return True

    def _refuse_living(self, owner: dict[str, Any], has_locks: bool) -> None:
        """Raises if another owner renews the lock file, for lack of kernel locks."""
        if owner and (not has_locks or owner["host"] != self._host):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - self._file.stat().st_mtime < STALE_SECONDS:
                    raise self._in_use(owner)

    def _in_use(self, owner: dict[str, Any]) -> Unusable:
        return Unusable(
            f"{in_use_by(self._path, owner)}; stop it, {self._advice}, or, if it is "
            f"surely gone, delete {printable(self._file)}."
        )

    def _owner(self) -> dict[str, Any]:
        """Reads who holds the lock; {} where that is not known."""
        try:
            owner = read_json(self._file, MAX_LOCK_BYTES)
            return {name: str(owner[name]) for name in ("host", "pid", "start")}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _renew(self) -> None:
        """Shows other machines that this process is alive.

        In a thread: nothing else comes often enough while a step is compiled or a model
        is evaluated. What hangs is ended by the watchdog.
        """
        while not self._released.wait(RENEW_SECONDS):
            # A file system that does not answer for a while is no reason to stop.
            with contextlib.suppress(OSError):
                os.utime(self._file)

    def release(self) -> None:
        """Releases the lock."""
        self._released.set()
        # While it is held: who waits for this file then finds that it is gone.
        self._file.unlink(missing_ok=True)
        self._lock.release()
        self._remove_folders()

    def _remove_folders(self) -> None:
        """Removes the folders that were made for the lock and are still empty."""
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.release()


def _make_folders(folder: Path) -> list[Path]:
    """Makes a folder and those above it; returns those that were missing."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


def lock_directory(directory: PathLike, advice: str = "choose another workdir") -> Lock:
    """Locks a directory for the one process that may add to it; makes it."""
    folder = local(directory, "a directory that is locked")
    return Lock(folder / LOCK_NAME, folder, advice)


def lock_output(path: PathLike, flag: str = "--out") -> Lock:
    """Locks the place of a result, after checking that it can be written.

    Two commands that write one result do not both work for hours.

    Raises:
      Unusable: another process writes it.
      OSError: nothing can be written there.
      ValueError: a URL.
    """
    path = local(path, flag).absolute()
    check_writable(path.parent, flag)
    return Lock(path.with_name(f".{path.name}.lock"), path, f"choose another {flag}")
