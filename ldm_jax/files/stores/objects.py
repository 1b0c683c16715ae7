# SPDX-License-Identifier: Apache-2.0
"""Objects of a store (gs://, s3://): list, fetch in large ranges, put, create.

An object is written atomically, and is never renamed. Functions send a bounded number
of requests: one listing per folder, one request per range, one or two per object.
"""

import os
import pathlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from ldm_jax.files.errors import MissingFile
from ldm_jax.files.paths import PathLike, is_remote, printable, resolve
from ldm_jax.files.stores.store_errors import reaching
from ldm_jax.files.write_errors import reported

# Large ranges: at 50 ms a request and 100 MB/s a connection, waiting costs a seventh.
RANGE_BYTES = 32 * 2**20
RANGES_AT_ONCE = 8
# Small objects are limited by the time of a request, not by the network.
REQUESTS_AT_ONCE = 16


class StoredObject(NamedTuple):
    """An object of a store.

    Attributes:
      url: of the object.
      size: in bytes.
      version: changes when it is written again: generation, ETag or time.
      sha256: of its bytes in hexadecimal digits; "" where it is not known.
    """

    url: str
    size: int
    version: str
    sha256: str = ""


def system_of(url: PathLike) -> tuple[Any, str]:
    """Returns (fsspec file system, path in it) of a URL."""
    text = os.fspath(resolve(url))
    with reaching(url):
        import fsspec  # comes with the packages that reach stores

        return fsspec.core.url_to_fs(text)


def list_objects(folder: PathLike) -> dict[str, StoredObject]:
    """Lists the objects directly in a folder, by name; {} if there are none.

    One request per 1,000 objects (5,000 in some versions of gcsfs).
    """
    system, root = system_of(folder)
    url = os.fspath(resolve(folder)).rstrip("/")
    try:
        with reaching(folder, "listed"):
            entries = system.ls(root, detail=True)
    except FileNotFoundError:
        return {}
    objects = {}
    for entry in entries:
        name = entry["name"].rstrip("/").rpartition("/")[2]
        if entry.get("type") == "file" and entry["name"].rstrip("/") != root:
            objects[name] = _described(f"{url}/{name}", entry)
    return objects


def stored_object(url: PathLike) -> StoredObject:
    """Looks an object up.

    Raises:
      MissingFile: there is none of this name, or it is a folder.
      StoreError: the store could not be asked.
    """
    system, path = system_of(url)
    with reaching(url):
        entry = system.info(path)
        if entry.get("type") != "file":
            raise MissingFile(
                f"{printable(url)} must be a file: it is a folder of a store. Copy it "
                "to a disk, or mount the bucket, and give the path."
            )
    return _described(os.fspath(resolve(url)), entry)


def _described(url: str, entry: dict[str, Any]) -> StoredObject:
    version = next((entry[key] for key in _VERSIONS if entry.get(key)), entry["size"])
    return StoredObject(url, entry["size"], str(version))


_VERSIONS = ("generation", "ETag", "etag", "mtime", "LastModified")


def sizes_in(folder: PathLike) -> dict[str, int]:
    """Returns the bytes of every file directly in a folder, local or remote, by name.

    One listing; {} where there is no such folder.
    """
    if is_remote(folder):
        return {name: item.size for name, item in list_objects(folder).items()}
    try:
        with os.scandir(folder) as entries:
            files = filter(_is_file, entries)
            return {entry.name: entry.stat().st_size for entry in files}
    except FileNotFoundError:
        return {}


def _is_file(entry: os.DirEntry) -> bool:
    """Returns whether an entry is a regular file; a link to itself is not."""
    try:
        return entry.is_file()
    except OSError:
        return False


def fetch_object(item: StoredObject, target: pathlib.Path) -> None:
    """Copies an object into a new local file, in ranges, several at once.

    Raises:
      MissingFile: it was deleted meanwhile.
      StoreError: it could not be read, or is shorter than it was.
    """
    system, path = system_of(item.url)

    def copy(start: int) -> None:
        stop = min(start + RANGE_BYTES, item.size)
        with reaching(item.url):
            data = system.cat_file(path, start=start, end=stop)
            if len(data) != stop - start:
                raise EOFError(f"{len(data)} of bytes {start} to {stop}")
        with reported(target):
            os.pwrite(file, data, start)

    with reported(target):
        file = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    try:
        with ThreadPoolExecutor(RANGES_AT_ONCE) as pool:
            list(pool.map(copy, range(0, item.size, RANGE_BYTES)))
    finally:
        os.close(file)


def read_many(paths: Sequence[PathLike]) -> list[bytes]:
    """Reads small files, local or remote; those of a store several at once."""

    def read(path: PathLike) -> bytes:
        if not is_remote(path):
            return pathlib.Path(path).read_bytes()
        system, place = system_of(path)
        with reaching(path):
            return system.cat_file(place)

    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        return list(pool.map(read, paths))


def put_file(source: pathlib.Path, url: PathLike) -> None:
    """Copies a local file to an object, atomically."""
    system, path = system_of(url)
    with reaching(url, "written"):
        system.put_file(os.fspath(source), path)


def put_bytes(url: PathLike, data: bytes) -> None:
    """Writes an object atomically, and replaces one of this name.

    One request for a small object; a file that is opened and written costs two.
    """
    system, path = system_of(url)
    with reaching(url, "written"):
        system.pipe_file(path, data)


def create(url: PathLike, data: bytes) -> bool:
    """Creates a small object; returns False if there is one already.

    The store decides (if_generation_match=0 of GCS, If-None-Match of S3), so of two
    callers that create one object at the same time, exactly one gets False.
    """
    system, path = system_of(url)
    try:
        with reaching(url, "written"):
            system.pipe_file(path, data, mode="create")
    except FileExistsError:
        return False
    return True


def delete(url: PathLike) -> None:
    """Deletes an object, if it exists."""
    system, path = system_of(url)
    try:
        with reaching(url, "deleted"):
            system.rm_file(path)
    except FileNotFoundError:
        pass


def delete_many(paths: Sequence[PathLike]) -> None:
    """Deletes files that exist, local or remote; those of a store several at once."""

    def remove(path: PathLike) -> None:
        if is_remote(path):
            delete(path)
        else:
            pathlib.Path(path).unlink(missing_ok=True)

    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        list(pool.map(remove, paths))
