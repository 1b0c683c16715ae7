# SPDX-License-Identifier: Apache-2.0
"""Local copies of objects, made when they are first needed.

Random access to a store would cost a request per record. So a file of records is copied
completely, in large ranges, and read locally. A copy is named after URL, size and
version of the object, so an object that changed is copied again. Copies stay in
~/.cache/ldm_jax/objects for later runs, until other copies need the space.
"""

import contextlib
import hashlib
import os
import pathlib
import re
import shutil
import threading
from collections import deque
from collections.abc import Iterable, Sequence

from ldm_jax.files.errors import UnreadableFile
from ldm_jax.files.paths import PathLike, cache_directory, printable
from ldm_jax.files.stores.objects import StoredObject, fetch_object, stored_object
from ldm_jax.files.write_errors import WriteError, nearest_folder
from ldm_jax.files.writing import atomic_path

# Copies at once: each fetches several ranges.
COPIES_AT_ONCE = 4
# Space that copies leave free, as a share of the disk.
KEPT_FREE = 0.05
# Path of a copy that this process uses -> URL of its object.
_URLS: dict[str, str] = {}


class Copies:
    """The local copies of a set of objects; safe to use from threads."""

    def __init__(self, objects: Sequence[StoredObject], what: PathLike):
        """Makes room for the objects; copies none yet.

        Args:
          objects: that will be read.
          what: names them in errors.

        Raises:
          WriteError: the disk is too small for them, also without the copies of others.
        """
        self.folder = cache_directory() / "objects"
        self._objects = {item.url: item for item in objects}
        self._places = {item.url: self.folder / _name(item) for item in objects}
        self._locks = {item.url: threading.Lock() for item in objects}
        self._ahead: deque[str] = deque()
        self._threads: list[threading.Thread] = []
        self._make_room(what)

    def path(self, url: str) -> pathlib.Path:
        """Returns the copy of an object, and makes it if it is missing.

        Raises:
          MissingFile: the object was deleted meanwhile.
          StoreError: it could not be read.
          UnreadableFile: it is not what the set's metadata describe.
          WriteError: the disk is full.
        """
        place, item = self._places[url], self._objects[url]
        with self._locks[url]:
            if _size(place) != item.size:
                with atomic_path(place) as partial:
                    fetch_object(item, partial)
                    _check(item, partial)
        _URLS[os.fspath(place)] = url
        return place

    def copied(self, url: str) -> bool:
        """Returns whether the copy of an object exists."""
        return _size(self._places[url]) == self._objects[url].size

    def read_ahead(self, urls: Iterable[str]) -> None:
        """Copies objects in threads, which end with the program.

        One that fails is tried again, and reported, by `path`.
        """
        self._ahead.extend(urls)
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        for _ in range(min(len(self._ahead), COPIES_AT_ONCE - len(self._threads))):
            thread = threading.Thread(target=self._copy_ahead, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _copy_ahead(self) -> None:
        with contextlib.suppress(IndexError):  # nothing is left
            while True:
                url = self._ahead.popleft()
                with contextlib.suppress(Exception):
                    self.path(url)

    def _make_room(self, what: PathLike) -> None:
        """Removes the copies of other objects, oldest first, if space is needed."""
        places = set(self._places.values())
        for place in places:
            with contextlib.suppress(OSError):
                os.utime(place)
        needed = sum(
            self._objects[url].size for url in self._objects if not self.copied(url)
        )
        disk = nearest_folder(self.folder)
        others = sorted(
            (path for path in _files(self.folder) if path not in places),
            key=lambda path: path.stat().st_mtime,
        )
        while True:
            usage = shutil.disk_usage(disk)
            free = usage.free - int(KEPT_FREE * usage.total)
            if needed <= free:
                return
            if not others:
                break
            others.pop(0).unlink(missing_ok=True)
        raise WriteError(
            f"{printable(what)} is read from copies on this machine's disk, which need "
            f"{needed / 2**30:.2f} GiB: {max(0, free) / 2**30:.2f} GiB may be used in "
            f"{self.folder}. Set XDG_CACHE_HOME to a folder of a larger disk, or mount "
            "the bucket and give the path."
        )


def local_copy(url: PathLike) -> pathlib.Path:
    """Returns a local copy of an object, for input files.

    Raises:
      MissingFile, StoreError: it could not be read.
      WriteError: the disk is too small.
    """
    item = stored_object(url)
    return Copies([item], url).path(item.url)


def with_urls(text: str) -> str:
    """Replaces the paths of copies in an error by the URLs of their objects."""
    for place, url in _URLS.items():
        text = text.replace(place, url)
    return text


def _check(item: StoredObject, copy: pathlib.Path) -> None:
    """Compares a copy with the checksum of its object."""
    if not item.sha256:
        return
    with copy.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != item.sha256:
        raise UnreadableFile(
            f"{printable(item.url)} is not as it was written: its SHA-256 is {digest}, "
            f"the metadata have {item.sha256}. Copy the set again, or delete this "
            "object and dataset_info.json and run the command that wrote them again."
        )


def _name(item: StoredObject) -> str:
    """Returns the name of a copy, which has the suffix of the object."""
    text = f"{item.url} {item.size} {item.version}"
    name = re.sub(r"[^\w.-]+", "-", item.url.rpartition("/")[2])[-100:]
    return f"{hashlib.sha256(text.encode()).hexdigest()[:32]}-{name}"


def _size(path: pathlib.Path) -> int:
    """Returns the size of a file; -1 without one."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return [
            pathlib.Path(entry.path)
            for entry in entries
            if entry.is_file() and not entry.name.startswith(".")
        ]
