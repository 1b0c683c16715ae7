# SPDX-License-Identifier: Apache-2.0
"""Moves and removes files and folders."""

import pathlib

from ldm_jax.files.paths import PathLike, resolve
from ldm_jax.files.write_errors import reported


def move(source: PathLike, target: PathLike) -> None:
    """Moves a file or folder to a name on the same file system, and replaces it."""
    target = resolve(target)
    with reported(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove(target)
        resolve(source).rename(target)


def remove(path: PathLike) -> None:
    """Removes a file, or a folder with its contents, if it exists."""
    path = resolve(path)
    if path.is_dir() and not pathlib.Path(path).is_symlink():
        path.rmtree()
    else:
        path.unlink(missing_ok=True)
