# SPDX-License-Identifier: Apache-2.0
"""Writes files and folders atomically: complete or not at all.

Every writer has its own temporary name next to the result (see `partials`), so two
processes that write the same result do not mix. It is renamed when everything was
written and synchronised to the disk.
"""

import contextlib
import errno
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import IO, Any

from ldm_jax.files.outputs import check_absent, regular_target
from ldm_jax.files.partials import remove_stale_partials, temporary_name
from ldm_jax.files.paths import PathLike, is_remote, local, printable, resolve
from ldm_jax.files.stores.objects import put_bytes
from ldm_jax.files.write_errors import WriteError, reported, write_error


class AlreadyWritten(OSError):
    """Raised when another process wrote a new result first."""


@contextlib.contextmanager
def atomic_path(
    path: PathLike, *, is_one_of_many: bool = False
) -> Iterator[pathlib.Path]:
    """Yields a temporary name of a file; it becomes `path` when the block ends well.

    For libraries that open the file themselves; else see `atomic_file`.

    Args:
      path: local file; its folder is made, and a file of this name is replaced.
      is_one_of_many: whether it is one of thousands that can be made again, such as
        sampled images: then the disk is not waited for (3 ms a file), nor are stale
        files looked for.

    Raises:
      OSError: it could not be written; with path and free space.
      ValueError: a URL.
    """
    path = regular_target(local(path, "a file that is written in pieces"))
    with reported(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not is_one_of_many:
            remove_stale_partials(path)
        partial = temporary_name(path)
        try:
            yield partial
            if not is_one_of_many:
                _sync(partial)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        if not is_one_of_many:
            _sync(path.parent)


@contextlib.contextmanager
def atomic_file(
    path: PathLike, mode: str = "wb", *, is_one_of_many: bool = False
) -> Iterator[IO[Any]]:
    """Opens a file that takes its name when the block ends without an error.

    Args:
      path: of the result; a file of this name is replaced.
      mode: "wb", or "w" for UTF-8 text.
      is_one_of_many: see `atomic_path`; errors too.
    """
    encoding = None if "b" in mode else "utf-8"
    with (
        atomic_path(path, is_one_of_many=is_one_of_many) as partial,
        open(partial, mode, encoding=encoding) as file,
    ):
        yield file


@contextlib.contextmanager
def atomic_directory(path: PathLike) -> Iterator[pathlib.Path]:
    """Makes a new folder that takes its name when the block ends without an error.

    Args:
      path: of the result; it must not exist, or be an empty folder.

    Yields:
      The folder to write into.

    Raises:
      ValueError: there is something of this name, or it is a URL.
      AlreadyWritten: another process made it meanwhile; its result stays.
      OSError: it could not be written; with path and free space.
    """
    path = pathlib.Path(os.path.realpath(local(path, "a new folder")))
    check_absent(path)
    with _temporary_folder(path) as partial:
        yield partial
        _sync_tree(partial)
        try:
            os.rename(partial, path)  # replaces an empty folder, and nothing else
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise AlreadyWritten(_taken(path)) from error


@contextlib.contextmanager
def new_files(*paths: PathLike) -> Iterator[pathlib.Path]:
    """Yields a folder to write new files into; they take their places together.

    Args:
      paths: of the results, in one folder; none may exist.

    Raises:
      ValueError: one of them exists, or is a URL.
      AlreadyWritten: another process wrote one meanwhile; none of ours is left.
      OSError: they could not be written; with path and free space.
    """
    results = [local(path, "a new file") for path in paths]
    for path in results:
        check_absent(path)
    with _temporary_folder(results[0]) as partial:
        yield partial
        _sync_tree(partial)
        placed = []
        try:
            for path in results:
                _link(partial / path.name, path)
                placed.append(path)
        except BaseException:
            for path in placed:
                path.unlink()
            raise


@contextlib.contextmanager
def files_into(directory: PathLike, last: str) -> Iterator[pathlib.Path]:
    """Yields a folder whose files then replace those of the same names in another.

    Args:
      directory: it exists; may be a URL.
      last: the file that is moved after all others, so that what has it is complete.
    """
    if is_remote(directory):
        with tempfile.TemporaryDirectory(prefix="ldm_jax_") as name:
            yield pathlib.Path(name)
            for file in _last(pathlib.Path(name), last):
                write_bytes(resolve(directory) / file.name, file.read_bytes())
        return
    directory = local(directory)
    with _temporary_folder(directory / last) as partial:
        yield partial
        _sync_tree(partial)
        for file in _last(partial, last):
            os.replace(file, directory / file.name)


def _last(folder: pathlib.Path, last: str) -> list[pathlib.Path]:
    """Lists the files of a folder with one of them at the end."""
    return sorted(folder.iterdir(), key=lambda file: file.name == last)


def write_text(path: PathLike, text: str) -> None:
    """Writes a text file (UTF-8) atomically, and replaces an existing one."""
    write_bytes(path, text.encode())


def write_json(path: PathLike, value: Any, indent: int | None = 2) -> None:
    """Writes a JSON file atomically, and replaces an existing one."""
    write_text(path, json.dumps(value, indent=indent) + "\n")


def write_bytes(path: PathLike, data: bytes, *, is_one_of_many: bool = False) -> None:
    """Writes a file of bytes atomically, and replaces an existing one.

    Args:
      path: may be a URL.
      data: the bytes.
      is_one_of_many: see `atomic_path`.
    """
    if not is_remote(path):
        with atomic_file(path, is_one_of_many=is_one_of_many) as file:
            file.write(data)
        return
    put_bytes(path, data)


def append_line(path: PathLike, line: str) -> None:
    """Appends a line of text to a file; one that a kill cut off before is ended.

    Raises:
      OSError: it could not be written; with path and free space.
    """
    with reported(path), open(local(path), "a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            line = line if file.read() == b"\n" else f"\n{line}"
        file.write(line.encode() + b"\n")


@contextlib.contextmanager
def _temporary_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Makes a temporary folder next to `path`; removes what is left of it.

    Folders that are made for it are removed too where the block fails.
    """
    above = (path.parent, *path.parent.parents)
    with reported(path):
        missing = [folder for folder in above if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale_partials(path)
        partial = temporary_name(path)
        partial.mkdir()
        try:
            yield partial
        except WriteError as error:  # names a file that the user never sees
            raise write_error(path, error.__cause__ or error) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            if not path.exists():
                for folder in missing:
                    with contextlib.suppress(OSError):  # no longer empty
                        folder.rmdir()
        _sync(path.parent)


def _link(partial: pathlib.Path, path: pathlib.Path) -> None:
    """Links a file to its name, unless the name is taken."""
    try:
        os.link(partial, path)  # atomic, and fails where there is a file
    except FileExistsError as error:
        raise AlreadyWritten(_taken(path)) from error
    except OSError:  # a file system without links: the name is reserved first
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError as error:
            raise AlreadyWritten(_taken(path)) from error
        os.replace(partial, path)


def _taken(path: pathlib.Path) -> str:
    return (
        f"{printable(path)} was written by another process meanwhile; its result was "
        "kept and this one dropped. Choose another --out."
    )


def _sync_tree(folder: pathlib.Path) -> None:
    for root, _, files in os.walk(folder):
        for name in files:
            _sync(pathlib.Path(root, name))
        _sync(pathlib.Path(root))


def _sync(path: pathlib.Path) -> None:
    """Writes a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # of folders, some file systems cannot
            raise
    finally:
        os.close(descriptor)
