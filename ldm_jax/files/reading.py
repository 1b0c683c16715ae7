# SPDX-License-Identifier: Apache-2.0
"""Opens untrusted files: only regular ones, of bounded size."""

import contextlib
import errno
import io
import os
import pathlib
import stat
from collections.abc import Iterator
from typing import BinaryIO, TextIO

from ldm_jax.files.errors import (
    LFS_POINTER,
    MissingFile,
    UnreadableFile,
    impostor_bytes,
    reading,
)
from ldm_jax.files.paths import PathLike, is_remote, printable
from ldm_jax.files.stores.copies import local_copy
from ldm_jax.files.stores.objects import read_many, stored_object

# Larger texts are not configs, captions or lists; what may be larger says so.
MAX_TEXT_BYTES = 256 * 2**20


def regular_file(path: PathLike, what: str = "a file") -> pathlib.Path:
    """Checks that a path names a regular file, links followed.

    Args:
      path: as the user wrote it; an object of a store is copied to this machine.
      what: is expected there, for the error.

    Returns:
      The path, with `~` expanded.

    Raises:
      MissingFile: there is nothing.
      UnreadableFile: it is a folder, FIFO, socket or device, which a reader could wait
        for without end, or a link to nothing or to itself.
      OSError: it cannot be looked at (no permission).
    """
    if is_remote(path):
        return local_copy(path)
    path = pathlib.Path(path).expanduser()
    reason = not_regular(path)
    if reason == MISSING:
        raise MissingFile(
            f"there must be {what} to read: no {printable(path)} (from "
            f"{pathlib.Path.cwd()}); "
            "check the path."
        )
    if reason:
        raise UnreadableFile(
            f"{what} must be a regular file: {printable(path)} {reason}; give a file."
        )
    return path


MISSING = "is not there"


def not_regular(path: PathLike) -> str:
    """Returns why a path is not a regular file ("is a FIFO"); "" if it is one."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        if not os.path.islink(path):
            return MISSING
        return f"is a link to {printable(os.readlink(path))}, which is not there"
    except OSError as error:  # a link to itself: too many levels
        if error.errno == errno.ENAMETOOLONG:
            return MISSING
        if os.path.islink(path) and not isinstance(error, PermissionError):
            return f"is a link that leads nowhere ({error.strerror})"
        raise
    except ValueError:  # a NUL in the name
        return MISSING
    if stat.S_ISREG(mode):
        return ""
    return next(
        (f"is a {kind}" for kind, test in _KINDS if test(mode)), "is not a file"
    )


_KINDS = (
    ("folder", stat.S_ISDIR),
    ("FIFO", stat.S_ISFIFO),
    ("socket", stat.S_ISSOCK),
    ("device", stat.S_ISCHR),
    ("device", stat.S_ISBLK),
)


@contextlib.contextmanager
def opened(
    path: PathLike, what: str = "a file", advice: str = ""
) -> Iterator[BinaryIO]:
    """Opens a regular local file for reading; errors in the block count as damage.

    Args:
      path: local.
      what: is expected there, for the error.
      advice: what to do about a damaged file; see `reading`.

    Raises:
      UnreadableFile: as `regular_file`; a Git LFS pointer; or see `reading`.
    """
    path = regular_file(path, what)
    with reading(path, advice=advice), open(path, "rb") as file:
        start = file.read(len(LFS_POINTER))
        if start == LFS_POINTER:
            raise UnreadableFile(f"{printable(path)}: {impostor_bytes(start)}.")
        file.seek(0)
        yield file


def read_bytes(path: PathLike, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """Reads a file of bounded size; also from an object store.

    Raises:
      UnreadableFile: it is not a regular file, or larger than `max_bytes`.
      StoreError, ValueError: a store cannot be reached.
    """
    if is_remote(path):
        check_size(path, stored_object(path).size, max_bytes)
        return read_many([path])[0]
    with opened(path) as file:
        check_size(path, os.fstat(file.fileno()).st_size, max_bytes)
        return file.read(max_bytes)


def check_size(path: PathLike, size: int, max_bytes: int) -> None:
    """Raises UnreadableFile if a file is larger than what is read as a whole."""
    if size > max_bytes:
        raise UnreadableFile(
            f"{printable(path)} has {size:,} bytes: at most {max_bytes:,} are read of "
            "such a file. It is of another kind."
        )


def read_text(path: PathLike, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Reads a text in UTF-8, with or without a byte order mark.

    Raises:
      UnreadableFile: another encoding, a page of HTML, or as `read_bytes`.
    """
    return decoded(read_bytes(path, max_bytes), path)


def decoded(data: bytes, path: PathLike) -> str:
    """Decodes a text in UTF-8, with or without a byte order mark.

    Raises:
      UnreadableFile: another encoding; names `path`.
    """
    check_utf8(data, path)
    if (reason := impostor_bytes(data[:512])) and data:
        raise UnreadableFile(f"{printable(path)}: {reason}. Get it again.")
    with reading(path, advice="Save it as UTF-8.", data=data):
        return data.decode("utf-8-sig")


def read_lines(path: PathLike, max_bytes: int = MAX_TEXT_BYTES) -> list[str]:
    """Reads the lines of a text that are not empty, stripped."""
    lines = (line.strip() for line in io.StringIO(read_text(path, max_bytes)))
    return [line for line in lines if line]


def text_stream(file: BinaryIO, path: PathLike, newline: str | None = None) -> TextIO:
    """Reads a binary file as text in UTF-8, with or without a byte order mark.

    Args:
      file: at its start; it can seek.
      path: its name, for the error.
      newline: as of `open`; csv wants "".

    Raises:
      UnreadableFile: the text is in UTF-16.
    """
    check_utf8(file.read(2), path)
    file.seek(0)
    return io.TextIOWrapper(file, encoding="utf-8-sig", newline=newline)


def check_utf8(start: bytes, path: PathLike) -> None:
    """Raises UnreadableFile for the byte order mark of UTF-16."""
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UnreadableFile(
            f"{printable(path)} is a text in UTF-16; save it as UTF-8."
        )
