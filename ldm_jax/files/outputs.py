# SPDX-License-Identifier: Apache-2.0
"""Checks the places of results before any work is done.

Nothing is created, so an error elsewhere in a command leaves no empty folder.
"""

import errno
import os
import pathlib
import uuid
from collections.abc import Iterable

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
# Of a file that may be replaced, where its mark is looked for.
_MARKED_BYTES = 4096


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


def check_writable_file(path: PathLike, flag: str = "--out", mark: bytes = b"") -> None:
    """Checks that a local file can be written, or replaced.

    Args:
      path: of the file.
      flag: names the argument in errors.
      mark: bytes within the first _MARKED_BYTES of what this command writes; a file
        that exists without them is somebody else's.

    Raises:
      ValueError: a URL, or an existing file without the mark.
      OSError: nothing can be written there, or `path` is not a regular file.
    """
    path = regular_target(local(path, flag), flag)
    _check_name(path, flag)
    check_writable(path.parent, flag)
    if mark and path.exists() and path.stat().st_size:
        with open(path, "rb") as file:
            is_ours = mark in file.read(_MARKED_BYTES)
        if not is_ours:
            raise ValueError(
                f"{flag} must be new, or an earlier result of this command: "
                f"{printable(path)} is another file; choose another {flag}, or delete "
                "it."
            )


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


def check_outside(
    out: PathLike, images: Iterable[PathLike], flag: str = "--out"
) -> None:
    """Raises ValueError for a result in a folder of images: it would become one."""
    if is_remote(out):
        return
    place = pathlib.Path(resolve(out)).resolve()
    for folder in (pathlib.Path(resolve(path)).resolve() for path in images):
        if place.is_relative_to(folder):
            raise ValueError(
                f"{flag} must be outside of the images: got {printable(out)} in "
                f"{printable(folder)}; give another one, for example "
                f"{flag}={printable(folder.parent / 'runs' / folder.name)}."
            )


def check_kinds(folder: PathLike, files: Iterable[str], folders: Iterable[str]) -> None:
    """Refuses a folder in which names that a command will write are of another kind.

    Raises:
      OSError: a folder stands where a file will be written, or the reverse.
    """
    root = resolve(folder)
    for name in files:
        if (root / name).is_dir():
            raise IsADirectoryError(
                f"{printable(root / name)} must be a file, which is written here: it "
                "is a folder; move it away."
            )
    for name in folders:
        if (root / name).exists() and not (root / name).is_dir():
            raise NotADirectoryError(
                f"{printable(root / name)} must be a folder, which is written here: it "
                "is a file; move it away."
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
