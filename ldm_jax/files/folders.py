# SPDX-License-Identifier: Apache-2.0
"""Lists the regular files of a folder, and those that are left out with the reason."""

import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

from ldm_jax.files.errors import UnreadableFile
from ldm_jax.files.paths import PathLike, is_unicode, printable
from ldm_jax.files.reading import MISSING, not_regular

# Files that operating systems add to a user's folders.
SIDE_FILES = ("thumbs.db", "desktop.ini")
# Folders that they add: side files of archives, thumbnails, deleted files.
SIDE_FOLDERS = ("__macosx", "@eadir", "#recycle", "$recycle.bin", "lost+found")


class Listing(NamedTuple):
    """The files of a folder.

    Attributes:
      files: sorted relative paths with "/", regular files that can be read.
      left_out: {relative path: why it is none of `files`}: "is a FIFO", "is a link to a
        folder".
    """

    files: list[str]
    left_out: dict[str, str]


def is_side_file(name: PathLike) -> bool:
    """Returns whether a file is hidden, or created by an operating system."""
    base = os.path.basename(os.fspath(name))
    return base.startswith(".") or base.lower() in SIDE_FILES


def is_side_folder(name: str) -> bool:
    """Returns whether a folder is hidden, or created by an operating system."""
    return name.startswith(".") or name.lower() in SIDE_FOLDERS


def list_folder(
    root: PathLike, is_within: Callable[[pathlib.Path], bool] = lambda folder: True
) -> Listing:
    """Lists all files below a folder, without side files and side folders.

    Links are followed to files within `root`, not to folders, nor out of it: a set that
    comes from somebody else must not pull in files it does not hold.

    Args:
      root: local folder.
      is_within: whether a folder below it counts.

    Raises:
      OSError: `root` itself cannot be listed.
    """
    root = pathlib.Path(root)
    home, listing = root.resolve(), Listing([], {})

    def note(error: OSError) -> None:
        if error.filename == os.fspath(root):
            raise error
        name = pathlib.Path(error.filename).relative_to(root).as_posix()
        listing.left_out[name] = f"cannot be listed ({error.strerror})"

    for folder, subfolders, files in os.walk(root, onerror=note):
        inside = [pathlib.Path(folder, n) for n in sorted(subfolders)]
        inside = [p for p in inside if not is_side_folder(p.name) and is_within(p)]
        subfolders[:] = [p.name for p in inside if not p.is_symlink()]
        links = [path for path in inside if path.is_symlink()]
        names = (pathlib.Path(folder, n) for n in files if not is_side_file(n))
        for path in [*links, *names]:
            name = path.relative_to(root).as_posix()
            if reason := _reason(path, home):
                listing.left_out[name] = reason
            else:
                listing.files.append(name)
    return Listing(sorted(listing.files), dict(sorted(listing.left_out.items())))


def refuse_special_files(root: PathLike) -> None:
    """Refuses a folder with a FIFO, socket, device or link to itself in it.

    For folders that a library reads, which would wait for such a file without end.

    Args:
      root: local folder, or where one is missing.

    Raises:
      UnreadableFile: names the file.
    """
    for folder, _, files in os.walk(root):
        for name in files:
            reason = not_regular(path := pathlib.Path(folder, name))
            if reason and reason not in ("is a folder", MISSING):
                raise UnreadableFile(
                    f"{printable(path)} {reason}: a folder that is read whole must "
                    "have regular files only. Remove it, or get the folder again."
                )


def _reason(path: pathlib.Path, home: pathlib.Path) -> str:
    """Returns why a file is not listed; "" if it is."""
    if not is_unicode(path.name):
        return "has a name that is not UTF-8: rename it"
    if reason := not_regular(path):
        if reason == "is a folder":
            return (
                f"is a link to a folder, {printable(path.resolve())}, which is not "
                "followed: put the folder itself there"
            )
        return reason
    if path.is_symlink() and not path.resolve().is_relative_to(home):
        return f"leads out of {printable(home)}: put the file itself there"
    return ""
