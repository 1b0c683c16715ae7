# SPDX-License-Identifier: Apache-2.0
"""The lock of a directory on an object store: a lease that its owner renews.

A store has no locks, but can create an object only if its name is free. A lease is an
object `run.lock.N`. The owner is the process that created the one with the highest N;
it writes the object again every RENEW_SECONDS. A lease that was not renewed for
LEASE_SECONDS has expired, and the next owner creates number N + 1. No clocks are
compared: a process watches a lease that may have expired until it is renewed or not.
"""

import contextlib
import json
import os
import pathlib
import re
import sys
import threading
import time
import uuid
from typing import Any

from ldm_jax.files.lock import LOCK_NAME, Unusable, in_use_by, this_process
from ldm_jax.files.paths import PathLike, printable
from ldm_jax.files.stores.objects import (
    StoredObject,
    create,
    delete,
    list_objects,
    put_bytes,
    read_many,
)

LEASE_SECONDS = 60.0
RENEW_SECONDS = 15.0
_NUMBER = re.compile(rf"{re.escape(LOCK_NAME)}\.(\d{{8}})")


class Lease:
    """Holds a directory of a store for one process.

    Attributes:
      lost: whether another process took the directory, since this one did not renew
        its lease in time (it was suspended, or cut off from the store).
    """

    def __init__(self, folder: PathLike, advice: str = "choose another workdir"):
        """Takes the lease; waits for one that may have expired, LEASE_SECONDS at most.

        Args:
          folder: URL.
          advice: the way out for who comes second.

        Raises:
          Unusable: another process holds it.
          StoreError: the store could not be read or written.
        """
        self._folder, self._advice, self.lost = str(folder).rstrip("/"), advice, False
        owner = {"machine": _machine(), "token": uuid.uuid4().hex}
        self._text = json.dumps(this_process() | owner).encode()
        before = self._expired()
        self._number = max(before, default=0) + 1
        self._url = f"{self._folder}/{LOCK_NAME}.{self._number:08d}"
        if not create(self._url, self._text):
            raise self._in_use(_owner(self._url))
        for old in before.values():
            delete(old.url)
        self._released = threading.Event()
        self._renewing = threading.Thread(target=self._renew, daemon=True)
        self._renewing.start()

    def _expired(self) -> dict[int, StoredObject]:
        """Returns the leases of earlier owners by number, when all have expired.

        Raises:
          Unusable: one is renewed.
        """
        seen, deadline = self._leases(), time.monotonic() + LEASE_SECONDS
        if not seen or _is_of_a_dead_process(_owner(seen[max(seen)].url)):
            return seen
        while time.monotonic() < deadline:
            time.sleep(min(RENEW_SECONDS / 2, max(0, deadline - time.monotonic())))
            now = self._leases()
            if not now:
                return {}
            if now != seen:
                raise self._in_use(_owner(now[max(now)].url))
        return seen

    def _leases(self) -> dict[int, StoredObject]:
        objects = list_objects(self._folder).items()
        pairs = ((_NUMBER.fullmatch(name), item) for name, item in objects)
        return {int(match[1]): item for match, item in pairs if match}

    def _in_use(self, owner: dict[str, Any]) -> Unusable:
        return Unusable(
            f"{in_use_by(self._folder, owner)}; stop it or {self._advice}. A process "
            f"that was killed loses its place after {LEASE_SECONDS:.0f} s."
        )

    def _renew(self) -> None:
        """Renews the lease until it is released, or taken by another process."""
        while not self._released.wait(RENEW_SECONDS):
            # A store that does not answer for a while is no reason to stop.
            with contextlib.suppress(Exception):
                if self._is_taken():
                    self.lost = True
                    return
                put_bytes(self._url, self._text)

    def _is_taken(self) -> bool:
        """Returns whether another process took the lease, or deleted it."""
        return max(self._leases(), default=0) != self._number

    def check(self) -> None:
        """Raises Unusable if another process took the directory."""
        if self.lost:
            raise Unusable(
                f"{printable(self._folder)} was taken by another process, as this one "
                f"did not renew its lease for {LEASE_SECONDS:.0f} s; it writes nothing "
                "more. Stop one of them."
            )

    def release(self) -> None:
        """Releases the lease.

        Raises:
          StoreError: it could not be deleted; not if another error is being raised,
            which may be the cause. The lease then expires.
        """
        other_error = sys.exception()
        self._released.set()
        # A renewal under way would write the object again after it is deleted.
        self._renewing.join(LEASE_SECONDS)
        if self.lost:
            return
        try:
            delete(self._url)
        except OSError:
            if other_error is None:
                raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.release()


def _owner(url: str) -> dict[str, Any]:
    """Reads the owner of a lease; {} if it is unknown."""
    try:
        owner = json.loads(read_many([url])[0])
        return {name: str(value) for name, value in owner.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _machine() -> str:
    """Names the running system and its process ids: those of a container are its own.

    "" where that is not known.
    """
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _is_of_a_dead_process(owner: dict[str, Any]) -> bool:
    """Returns whether the owner was a process here that has ended; False if unknown."""
    if not _machine() or owner.get("machine") != _machine():
        return False
    try:
        os.kill(int(owner["pid"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, KeyError):
        return False
    return False
