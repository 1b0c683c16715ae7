# SPDX-License-Identifier: Apache-2.0
"""Describes errors of writing in one line, with the path and the free space there."""

import contextlib
import errno
import os
import pathlib
import re
import shutil
from collections.abc import Iterator

from ldm_jax.files.paths import PathLike, is_remote, printable, resolve


class WriteError(OSError):
    """Raised when a file could not be written, with its path and the free space."""


@contextlib.contextmanager
def reported(path: PathLike, what: str = "", *, every: bool = False) -> Iterator[None]:
    """Adds path and free space to an error of writing.

    An OSError without a number counts as one too: NumPy reports a full disk by the
    number of bytes that were written. Errors about a file outside of the folder of
    `path` (one that is read within the block) stay what they are.

    Args:
      path: what is being written.
      what: is written there: "a checkpoint".
      every: whether every error counts. Orbax reports a full disk by a ValueError,
        ArrayRecord by a RuntimeError: put nothing else into such a block.

    Raises:
      WriteError: an error of writing was raised within.
    """
    try:
        yield
    except WriteError:
        raise
    except Exception as error:
        if every:
            raise write_error(path, error, what) from error
        if not isinstance(error, OSError):
            raise
        is_plain = type(error) in (OSError, PermissionError, NotADirectoryError)
        if not is_plain or error.errno not in _NUMBERS or _is_elsewhere(error, path):
            raise
        raise write_error(path, error, what) from error


def write_error(path: PathLike, error: BaseException, what: str = "") -> WriteError:
    """Makes the error of a file that could not be written: a line with free space."""
    reason, number = first_line(error), getattr(error, "errno", None)
    if match := _NUMBER_OF_TENSORSTORE.search(str(error)):
        number = int(match[1])
        reason = os.strerror(number)
    result = WriteError(
        f"could not write {what + ' to ' if what else ''}{printable(path)} "
        f"({free_space(path)}): {reason}"
    )
    result.errno = number
    return result


def free_space(path: PathLike) -> str:
    """Describes the free space where a path is, or would be."""
    if is_remote(path):
        return "free space unknown"
    try:
        free = shutil.disk_usage(nearest_folder(path)).free
    except OSError:
        return "free space unknown"
    return f"{free / 2**30:.2f} GiB free"


def nearest_folder(path: PathLike) -> pathlib.Path:
    """Returns the first folder above a local path, or itself, that exists."""
    folder = pathlib.Path(resolve(path))
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message: libraries append explanations."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _is_elsewhere(error: OSError, path: PathLike) -> bool:
    """Returns whether an error names a file that is not in the folder of `path`."""
    if not isinstance(error.filename, str | bytes | os.PathLike):
        return False
    named = os.path.realpath(os.fsdecode(error.filename))
    folder = os.path.realpath(pathlib.Path(resolve(path)).parent)
    return os.path.commonpath([named, folder]) != folder


# Of the operating system, at the end of several lines of text.
_NUMBER_OF_TENSORSTORE = re.compile(r"os_error_code='(\d+)'")
_NUMBERS = {
    None,
    errno.EACCES,
    errno.EBUSY,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}
