# SPDX-License-Identifier: Apache-2.0
"""Writes files and folders that appear whole or not at all.

Every writer has a temporary name of its own beside the result, `.NAME.HEX.partial`, so
two processes that write one result never mix; it takes its name when all was written
and synchronised to the disk. What a killed process leaves is hidden, is never read, and
is removed by a later writer of the same name once it is a day old.
"""

import contextlib
import errno
import json
import os
import pathlib
import shutil
import time
import uuid
from collections.abc import Iterator
from typing import IO, Any

from etils import epath

from ldm_jax.files.paths import PathLike, is_remote, printable, resolve

STALE_SECONDS = 24 * 3600.0


class AlreadyWritten(OSError):
    """Raised when another process wrote a new result first."""


@contextlib.contextmanager
def atomic_file(
    path: PathLike,
    mode: str = "wb",
    *,
    replace: bool = True,
    is_one_of_many: bool = False,
) -> Iterator[IO[Any]]:
    """Opens a file that takes its name when the block ends without an error.

    Args:
      path: of the result; its folder is made.
      mode: "wb", or "w" for UTF-8 text.
      replace: whether a file of this name is replaced.
      is_one_of_many: whether it is one of thousands that can be made again, such as
        sampled images: then the disk is not waited for (3 ms a file), nor are stale
        files looked for.

    Raises:
      AlreadyWritten: `replace` is False, and the file exists.
      OSError: it could not be written; with path and free space.
    """
    path = pathlib.Path(resolve(path))
    with reported(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not is_one_of_many:
            remove_stale(path)
        partial = temporary_name(path)
        encoding = None if "b" in mode else "utf-8"
        try:
            with open(partial, mode, encoding=encoding) as file:
                yield file
                file.flush()
                if not is_one_of_many:
                    os.fsync(file.fileno())
            _take_name(partial, path, replace)
        finally:
            partial.unlink(missing_ok=True)
        if not is_one_of_many:
            _sync_folder(path.parent)


@contextlib.contextmanager
def atomic_directory(path: PathLike) -> Iterator[pathlib.Path]:
    """Makes a new folder that takes its name when the block ends without an error.

    Args:
      path: of the result; it must not exist, or be an empty folder.

    Yields:
      The folder to write into.

    Raises:
      ValueError: there is something of this name.
      AlreadyWritten: another process made it meanwhile; its result stays.
      OSError: it could not be written; with path and free space.
    """
    path = pathlib.Path(resolve(path))
    check_absent(path)
    with reported(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(path)
        partial = temporary_name(path)
        partial.mkdir()
        try:
            yield partial
            try:
                # Replaces an empty folder, and nothing else.
                os.rename(partial, path)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
                raise AlreadyWritten(_taken(path)) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        _sync_folder(path.parent)


def write_text(path: PathLike, text: str) -> None:
    """Writes a text file (UTF-8) that appears whole; one of this name is replaced."""
    if is_remote(path):  # objects appear whole
        with reported(path):
            epath.Path(path).write_text(text)
        return
    with atomic_file(path, "w") as file:
        file.write(text)


def write_json(path: PathLike, value: Any, indent: int | None = 2) -> None:
    """Writes a JSON file that appears whole; one of this name is replaced."""
    write_text(path, json.dumps(value, indent=indent) + "\n")


def write_bytes(path: PathLike, data: bytes) -> None:
    """Writes a file of bytes that appears whole; one of this name is replaced."""
    if is_remote(path):
        with reported(path):
            epath.Path(path).write_bytes(data)
        return
    with atomic_file(path) as file:
        file.write(data)


def append_line(path: PathLike, line: str) -> None:
    """Appends a line of text to a file.

    Raises:
      OSError: it could not be written; with path and free space.
    """
    with reported(path), open(path, "a", encoding="utf-8") as file:
        file.write(line + "\n")


def check_writable(directory: PathLike, flag: str = "--out") -> None:
    """Makes a folder and tries a file in it, before hours of work are put there.

    Args:
      directory: local or remote.
      flag: names the argument in the error.

    Raises:
      OSError: nothing can be written there; says why in a line.
      ValueError: it is remote, and the package that reaches it is missing.
    """
    folder = resolve(directory)
    probe = folder / f".writable.{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except ImportError as error:
        raise ValueError(
            f"{printable(directory)} needs a package that reaches its store: pip "
            "install 'ldm_jax[gcs]' for gs://, or mount it and give the path."
        ) from error
    except Exception as error:
        raise OSError(
            f"{flag} must be a directory that this process may write: got "
            f"{printable(directory)} ({first_line(error)}). Choose another {flag}, or "
            "change who may write there."
        ) from error


def check_writable_file(path: PathLike, flag: str = "--out") -> None:
    """Checks the folder of a file that will be written, as `check_writable` does.

    Raises:
      OSError: nothing can be written there, or `path` is a folder.
    """
    path = resolve(path)
    if path.is_dir():
        raise IsADirectoryError(
            f"{flag} must name a file: got the folder {printable(path)}; add a name."
        )
    check_writable(path.parent, flag)


def check_absent(path: PathLike, flag: str = "--out") -> None:
    """Refuses a result that exists, before any work; an empty folder is none.

    Raises:
      ValueError: there is something of this name.
    """
    path = resolve(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(
            f"{flag} must be new: {printable(path)} exists; choose another {flag}, or "
            "delete it."
        )


@contextlib.contextmanager
def reported(path: PathLike, what: str = "") -> Iterator[None]:
    """Adds path and free space to an error of writing.

    Errors that carry no error number count as such too: NumPy reports a full disk by
    the number of bytes that were written.

    Args:
      path: what is being written.
      what: is written there: "a checkpoint".

    Raises:
      OSError: an error of writing was raised within.
    """
    try:
        yield
    except AlreadyWritten:
        raise
    except OSError as error:
        if error.errno not in _WRITE_ERRORS or getattr(error, "is_reported", False):
            raise
        raise write_error(path, error, what) from error


def write_error(path: PathLike, error: Exception, what: str = "") -> OSError:
    """Makes the error of a file that could not be written: a line with free space."""
    result = OSError(
        f"could not write {what + ' to ' if what else ''}{printable(path)} "
        f"({free_space(path)}): {first_line(error)}"
    )
    result.errno = getattr(error, "errno", None)
    result.is_reported = True
    return result


def free_space(path: PathLike) -> str:
    """Says how much is free where a path is, or would be."""
    if is_remote(path):
        return "free space unknown"
    folder = pathlib.Path(resolve(path))
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return f"{shutil.disk_usage(folder).free / 2**30:.2f} GiB free"
    except OSError:
        return "free space unknown"


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message: libraries append explanations."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def temporary_name(path: pathlib.Path) -> pathlib.Path:
    """Makes a name beside `path` that no other writer has.

    Not of the process id: in containers on several hosts it is often the same.
    """
    # A name may have 255 bytes; what is cut is not needed to tell writers apart.
    stem = path.name.encode()[:200].decode(errors="ignore")
    return path.with_name(f".{stem}.{uuid.uuid4().hex}.partial")


def remove_stale(path: pathlib.Path) -> None:
    """Removes what killed writers of this name left, when it is a day old."""
    stem = temporary_name(path).name.rpartition(".partial")[0][:-32]
    for partial in path.parent.iterdir():
        name = partial.name
        if name.startswith(stem) and name.endswith(".partial"):
            with contextlib.suppress(OSError):
                if time.time() - partial.stat().st_mtime > STALE_SECONDS:
                    remove(partial)


def remove(path: PathLike) -> None:
    """Removes a file, or a folder with everything in it, if it is there."""
    path = resolve(path)
    if path.is_dir() and not pathlib.Path(path).is_symlink():
        path.rmtree()
    else:
        path.unlink(missing_ok=True)


_WRITE_ERRORS = {
    None,
    errno.EACCES,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}


def _take_name(partial: pathlib.Path, path: pathlib.Path, replace: bool) -> None:
    if replace:
        os.replace(partial, path)
        return
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


def _sync_folder(folder: pathlib.Path) -> None:
    """Writes the names in a folder to the disk; some file systems cannot."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
