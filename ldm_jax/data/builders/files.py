# SPDX-License-Identifier: Apache-2.0
"""Reads a user's files by name, in a folder and inside of its archives."""

import contextlib
import io
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

from absl import logging

from ldm_jax.files.errors import UnreadableFile
from ldm_jax.files.folders import list_folder
from ldm_jax.files.formats.archives import (
    TarMember,
    ZipMembers,
    read_tar_member,
    tar_members,
)
from ldm_jax.files.paths import printable
from ldm_jax.files.reading import opened, read_bytes, text_stream

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
# COCO's annotations, the largest file that is read as a whole, have 450 MiB.
MAX_FILE_MIB = 1024
# Where a file is: on its own, in a zip of this name, or in a tar of this name.
Place = None | str | tuple[str, TarMember]


class Files:
    """Reads files by name, one at a time, without unpacking archives.

    A file in `x.tar` or `x.zip` has the name that it would have if the archive were
    unpacked in place, or, with `archive_folders`, in a folder `x`; one in a nested tar
    (`n01440764.tar` in ImageNet's) is always below a folder of that tar's name.
    Compressed tars cannot be read at random and are passed over with a warning. So are
    links to folders, and links of files and archives that lead out of the root.

    Attributes:
      root: the folder.

    Raises:
      UnreadableFile: a damaged archive.
      ValueError: no such folder, or two files of one name.
    """

    def __init__(self, root: str | os.PathLike, archive_folders: bool = False):
        self.root = pathlib.Path(root).expanduser()
        if not self.root.is_dir():
            raise ValueError(
                f"manual_dir must be a folder: {self.root} is not a directory; give "
                "the folder of the set."
            )
        self._found: dict[str, Place] = {}
        self._zips: dict[str, ZipMembers] = {}
        self._archive_folders = archive_folders
        listing = list_folder(self.root)
        for name, reason in listing.left_out.items():
            logging.warning("%s %s.", printable(self.root / name), reason)
        for name in listing.files:
            folder = self._folder(name)
            if name.endswith(".tar"):
                members = tar_members(self.root / name)
                self._add(((folder + m.name, (name, m)) for m in members), name)
            elif name.endswith(".zip"):
                self._zips[name] = ZipMembers(self.root / name)
                names = self._zips[name].sizes
                self._add(((folder + member, name) for member in names), name)
            elif name.endswith(COMPRESSED_TARS):
                logging.warning("%s is compressed: unpack it to have it read.", name)
            else:
                self._add([(name, None)], name)

    def names(self, under: str = "", suffixes: Sequence[str] = IMAGES) -> list[str]:
        """Lists files, sorted.

        Args:
          under: only what is in this folder, at any depth.
          suffixes: only these endings, whatever their case.

        Returns:
          Names, relative to the root, with "/".
        """
        start = f"{under}/" if under else ""
        return sorted(
            name
            for name in self._found
            if name.startswith(start) and name.lower().endswith(tuple(suffixes))
        )

    def first(self, *choices: str) -> str:
        """Returns the first of these folders that holds a file; "" if none does."""
        folders = {name.rpartition("/")[0] for name in self._found}
        for folder in choices:
            if any(f"{other}/".startswith(f"{folder}/") for other in folders):
                return folder
        return ""

    def find(self, *endings: str) -> str:
        """Returns the only file whose name is one of `endings`, in any folder.

        Returns:
          Its name; "" if there is none.
        """
        for ending in endings:
            for name in self._found:
                if name == ending or name.endswith(f"/{ending}"):
                    return name
        return ""

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def read(self, name: str) -> bytes:
        """Reads a file.

        Raises:
          UnreadableFile: it is damaged, or larger than MAX_FILE_MIB.
          OSError: it cannot be read.
        """
        place, bound = self._found[name], MAX_FILE_MIB * 2**20
        if place is None:
            return read_bytes(self.root / name, bound)
        if isinstance(place, str):
            member = name.removeprefix(self._folder(place))
            return self._zips[place].read(member, bound)
        archive, tar_member = place
        return read_tar_member(self.root / archive, tar_member, bound)

    def path(self, name: str) -> pathlib.Path:
        """Returns where a file is that is read piece by piece.

        Raises:
          ValueError: it is in an archive.
        """
        if self._found[name] is not None:
            raise ValueError(
                f"{name} must be a file outside of archives: it is in an archive of "
                f"{self.root}; unpack it."
            )
        return self.root / name

    @contextlib.contextmanager
    def open_text(self, name: str) -> Iterator[TextIO]:
        """Opens a text file in UTF-8; one outside of archives may have any size."""
        if self._found[name] is None:
            with opened(self.root / name) as file:
                yield text_stream(file, self.root / name, newline="")
        else:
            yield text_stream(io.BytesIO(self.read(name)), name, newline="")

    def lines(self, name: str) -> list[str]:
        """Reads the lines of a text file that are not empty, stripped."""
        with self.open_text(name) as file:
            return [line.strip() for line in file if line.strip()]

    def _add(self, entries: Iterable[tuple[str, Place]], origin: str) -> None:
        for name, place in entries:
            if name in self._found:
                raise UnreadableFile(
                    f"{self.root / origin} holds {printable(name)} a second time: "
                    "remove the archives that are unpacked, or their files."
                )
            self._found[name] = place

    def _folder(self, archive: str) -> str:
        """Returns the folder of an archive's files, with "/" at its end, or ""."""
        if self._archive_folders:
            return archive.rpartition(".")[0] + "/"
        return archive[: archive.rfind("/") + 1]
