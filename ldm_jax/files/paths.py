# SPDX-License-Identifier: Apache-2.0
"""Paths as users write them: `~`, URLs of object stores, names that leave a folder."""

import os
import pathlib

from etils import epath

PathLike = str | os.PathLike[str]


def is_remote(path: PathLike) -> bool:
    """Tells whether a path is a URL of an object store (gs://...)."""
    return "://" in os.fspath(path)


def resolve(path: PathLike) -> epath.Path:
    """Makes a path absolute, with `~` expanded; a URL stays as it is."""
    if is_remote(path):
        return epath.Path(path)
    return epath.Path(pathlib.Path(path).expanduser().absolute())


def local(path: PathLike, what: str) -> pathlib.Path:
    """Expands `~` in a path that must be on a file system.

    Args:
      path: as the user wrote it.
      what: names the path in the error: "the output of an export".

    Raises:
      ValueError: a URL.
    """
    if is_remote(path):
        raise ValueError(
            f"{what} must be on a file system: got {printable(path)}; write to a local "
            "disk or a mounted bucket, then copy."
        )
    return pathlib.Path(path).expanduser()


def inside(root: PathLike, name: str) -> pathlib.Path:
    """Joins a name that a stranger's file gives to a folder, which it may not leave.

    Raises:
      ValueError: the name is absolute, or leads out of `root` (by "..", or by a link).
    """
    folder = pathlib.Path(root).expanduser().resolve()
    path = (folder / name).resolve()
    if not path.is_relative_to(folder):
        raise ValueError(
            f"a file of {folder} must be inside of it: got {printable(name)}."
        )
    return folder / name


def printable(name: PathLike) -> str:
    r"""Escapes what a terminal would obey: control characters and line breaks.

    Bytes that are no UTF-8 (surrogates, as `os.fsdecode` makes them) are escaped too.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode()
        for c in os.fspath(name)
    )
