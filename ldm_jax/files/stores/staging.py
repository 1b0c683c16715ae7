# SPDX-License-Identifier: Apache-2.0
"""Writes results to object stores (gs://, s3://): first to a local disk, then copied.

A store cannot rename, lock or append, so a result is written to a local folder and
copied when it is complete. The JSON files at its top mark it as complete and are copied
last. The folder's name is computed from the URL, so a command that was killed, even
while copying, continues in it when it is started again.
"""

import contextlib
import hashlib
import os
import pathlib
import re
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from ldm_jax.files.lock import LOCK_NAME
from ldm_jax.files.outputs import check_absent
from ldm_jax.files.paths import (
    PathLike,
    cache_directory,
    is_remote,
    printable,
    resolve,
)
from ldm_jax.files.stores.objects import REQUESTS_AT_ONCE, put_file

SHOW_PROGRESS_ABOVE = 100  # files


def staging_of(url: PathLike) -> pathlib.Path:
    """Returns the local place where the result of a URL is made; it may not exist."""
    text = os.fspath(resolve(url)).rstrip("/")
    name = re.sub(r"[^\w.-]+", "-", text.rpartition("/")[2])
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return cache_directory() / "outputs" / digest / name


@contextlib.contextmanager
def local_twin(path: PathLike) -> Iterator[pathlib.Path]:
    """Yields where to write a file: `path`, or of a URL a local file, copied then.

    The local file is removed in the end. For libraries that write local files only.

    Raises:
      MissingFile, StoreError: the object could not be written.
    """
    if not is_remote(path):
        yield pathlib.Path(path)
        return
    place = staging_of(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield place
        put_file(place, path)
    finally:
        shutil.rmtree(place.parent, ignore_errors=True)


def check_new(url: PathLike, flag: str = "--out") -> None:
    """Refuses a URL that has something, unless a copy to it was interrupted.

    Raises:
      ValueError: objects of this name exist, and this machine did not begin them.
    """
    if not staging_of(url).exists():
        check_absent(url, flag)


def upload(url: PathLike) -> None:
    """Copies what `staging_of` holds to a URL, and removes it here.

    Raises:
      StoreError: an object could not be written; what is here stays.
    """
    copy_beside(staging_of(url), url)
    shutil.rmtree(staging_of(url).parent)


@contextlib.contextmanager
def new_staging(url: PathLike) -> Iterator[pathlib.Path]:
    """Yields where to make a result from scratch; it is copied when the block ends."""
    place = staging_of(url)
    place = place.parent / uuid.uuid4().hex / place.name
    place.parent.mkdir(parents=True)
    try:
        yield place
        copy_beside(place, url)
    finally:
        shutil.rmtree(place.parent, ignore_errors=True)


def copy_beside(place: pathlib.Path, url: PathLike) -> None:
    """Copies a file or folder to a URL, and its neighbours into the same place.

    Raises:
      StoreError: an object could not be written.
    """
    root = os.fspath(resolve(url)).rstrip("/")
    above = root.rpartition("/")[0]
    files = {
        file: f"{above}/{file.relative_to(place.parent).as_posix()}"
        for file in sorted(place.parent.rglob("*"))
        if file.is_file() and not _is_of_this_machine(file)
    }
    last = [f for f in files if f.parent == place and f.suffix == ".json"]
    first = [file for file in files if file not in last]

    def put(file: pathlib.Path) -> None:
        put_file(file, files[file])

    hidden = len(files) < SHOW_PROGRESS_ABOVE
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        copied = pool.map(put, first)
        list(tqdm(copied, total=len(first), desc=f"to {root}", disable=hidden))
    for file in last:
        put(file)
    print(f"copied to {printable(root)}")


def _is_of_this_machine(file: pathlib.Path) -> bool:
    """Returns whether a file is not part of the result: a lock, or a partial file."""
    return file.name.startswith(".") or file.name == LOCK_NAME
