# SPDX-License-Identifier: Apache-2.0
"""Checks the places of results before any work is done.

Nothing is created, so an error elsewhere in a command leaves no empty folder.
"""

import errno
import os
import pathlib
import uuid

from ldm_jax.files.errors import described
from ldm_jax.files.paths import (
    PathLike,
    is_remote,
    is_unicode,
    local,
    printable,
    resolve,
)
from ldm_jax.files.stores.store_errors import missing_package, reason
from ldm_jax.files.write_errors import first_line, nearest_folder, write_error

# More than a file system keeps back on a full disk.
_PROBE = b"\0" * 65536


def check_writable(directory: PathLike, flag: str = "--out") -> None:
    """Tries a file in a folder, or in the nearest one above that exists.

    Args:
      directory: local or remote; it need not exist.
      flag: names the argument in the error.

    Raises:
      OSError: nothing can be written there; says why in a line.
      ValueError: it is remote, and the package that reaches it is missing.
    """
    folder = resolve(directory)
    _check_name(directory, flag)
    try:
        if is_remote(folder):
            probe = folder / f".writable.{uuid.uuid4().hex}"
            probe.write_bytes(b"")
            probe.unlink()
        else:
            _refuse_broken_links(pathlib.Path(folder))
            _try(nearest_folder(folder))
    except ImportError as error:
        raise missing_package(directory, error) from error
    except Exception as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise write_error(directory, error) from error
        why = first_line(error)
        if is_remote(directory):
            why = f"{reason(error)}: {described(error)}"
        raise OSError(
            f"{flag} must be a directory that this process may write: got "
            f"{printable(directory)} ({why}). Choose another {flag}, or change who may "
            "write there."
        ) from error


def _check_name(path: PathLike, flag: str) -> None:
    """Raises ValueError for a name of bytes that are no text: libraries refuse it."""
    if not is_unicode(path):
        raise ValueError(
            f"{flag} must be a name in UTF-8: got {printable(path)}; choose another "
            f"{flag}."
        )


def _refuse_broken_links(folder: pathlib.Path) -> None:
    """Raises OSError for a link to nothing: no folder can be made in its place."""
    for place in (folder, *folder.parents):
        if place.is_symlink() and not place.exists():
            raise OSError(f"{printable(place)} is a link to what does not exist")


def check_holds_checkpoints(directory: PathLike, flag: str = "--out") -> None:
    """Refuses a URL of a store where Orbax writes no checkpoints.

    Orbax has a driver for gs:// only. On other stores it would rename what it wrote,
    which is not atomic there.

    Args:
      directory: of a run, of a model, or of latents, which contain their first stage.
      flag: names the argument in the error.

    Raises:
      ValueError: a URL that does not begin with gs://.
    """
    if is_remote(resolve(directory)) and not os.fspath(directory).startswith("gs://"):
        raise ValueError(
            f"{flag} holds checkpoints, which Orbax writes to gs:// or a file system: "
            f"got {printable(directory)}; choose one of these. Other stores take "
            "results, image sets and exports (--to=compact is a model)."
        )


def check_writable_file(path: PathLike, flag: str = "--out") -> None:
    """Checks that a local file can be written, or replaced.

    Raises:
      ValueError: a URL.
      OSError: nothing can be written there, or `path` is not a regular file.
    """
    path = regular_target(local(path, flag), flag)
    _check_name(path, flag)
    check_writable(path.parent, flag)


def check_absent(path: PathLike, flag: str = "--out") -> None:
    """Refuses a result that exists, before any work; an empty folder is none.

    Raises:
      ValueError: there is something of this name.
    """
    _check_name(path, flag)
    path = resolve(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(
            f"{flag} must be new: {printable(path)} exists; choose another {flag}, or "
            "delete it."
        )
    if not is_remote(path) and os.path.ismount(path):  # cannot be renamed to
        raise ValueError(
            f"{flag} must be new: {printable(path)} is where a disk is mounted; name a "
            "folder in it."
        )


def regular_target(path: PathLike, flag: str = "the output") -> pathlib.Path:
    """Follows the links of a file to write, as `open` would.

    Raises:
      OSError: there is something else of this name: a folder, a device, a FIFO.
    """
    path = pathlib.Path(os.path.realpath(resolve(path)))
    if path.is_dir():
        raise IsADirectoryError(
            f"{flag} must name a file: got the folder {printable(path)}; add a name."
        )
    if path.exists() and not path.is_file():
        raise OSError(
            f"{flag} must name a regular file: got {printable(path)}, a device or "
            "FIFO; name a new file."
        )
    return path


def _try(existing: pathlib.Path) -> None:
    """Writes a file in an existing folder and removes it."""
    if not existing.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    probe = existing / f".writable.{uuid.uuid4().hex}"
    try:
        probe.write_bytes(_PROBE)
    finally:
        probe.unlink(missing_ok=True)
