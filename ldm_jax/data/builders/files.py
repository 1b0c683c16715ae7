# SPDX-License-Identifier: Apache-2.0
"""The files that a user has on disk: below a folder, and inside its archives."""

import io
import os
import pathlib
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TextIO

from absl import logging

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
# COCO's annotations, the largest file that is read as a whole, have 450 MiB.
MAX_FILE_MIB = 1024


class Member(NamedTuple):
    """Where a file lies inside a tar archive: bytes start to start + size."""

    archive: str
    start: int
    size: int


class Files:
    """Files by name, read one at a time; nothing is unpacked.

    A file in `x.tar` or `x.zip` has the name that it has after unpacking beside the
    archive, or, with `archive_folders`, in a folder `x`; one in a tar within a tar
    (`n01440764.tar` in ImageNet's) is always below a folder of that tar's name.
    Compressed tars cannot be read at random and are passed over with a warning. So are
    links, of folders, files and archives, that lead out of the root.

    Attributes:
      root: the folder.

    Raises:
      ValueError: no such folder, a damaged archive, or two files of one name.
    """

    def __init__(self, root: str | os.PathLike, archive_folders: bool = False):
        self.root = pathlib.Path(root).expanduser()
        if not self.root.is_dir():
            raise ValueError(f"{self.root} is not a directory: give the set's folder.")
        # None: a file of its own; a name: the zip that holds it.
        self._found: dict[str, Member | str | None] = {}
        self._zips: dict[str, zipfile.ZipFile] = {}
        self._archive_folders = archive_folders
        for name in self._walk():
            if name.endswith(".tar"):
                self._add(self._in_tar(name), name)
            elif name.endswith(".zip"):
                self._add(self._in_zip(name), name)
            elif name.endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")):
                logging.warning("%s is compressed: unpack it to have it read.", name)
            else:
                self._add([(name, None)], name)

    def names(self, under: str = "", suffixes: Sequence[str] = IMAGES) -> list[str]:
        """Lists files, sorted.

        Args:
          under: only what lies in this folder, at any depth.
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

    def first(self, *wanted: str) -> str:
        """Returns the first of these folders that holds a file; "" if none does."""
        folders = {name.rpartition("/")[0] for name in self._found}
        for folder in wanted:
            if any(f"{other}/".startswith(f"{folder}/") for other in folders):
                return folder
        return ""

    def find(self, *endings: str) -> str:
        """Returns the one file whose name is, or ends with "/" and, one of `endings`.

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
          ValueError: it is larger than MAX_FILE_MIB.
          OSError: it cannot be read.
        """
        place = self._found[name]
        if isinstance(place, Member):
            with open(self.root / place.archive, "rb") as archive:
                archive.seek(place.start)
                return archive.read(_bounded(name, place.size))
        if isinstance(place, str):
            info = self._zips[place].getinfo(name.removeprefix(self._folder(place)))
            _bounded(name, info.file_size)
            try:
                return self._zips[place].read(info)
            except (zipfile.BadZipFile, NotImplementedError) as error:
                raise OSError(f"{place}: {error}") from error
        _bounded(name, os.path.getsize(self.root / name))
        return (self.root / name).read_bytes()

    def path(self, name: str) -> pathlib.Path:
        """Returns where a file lies that is read piece by piece.

        Raises:
          ValueError: it lies in an archive.
        """
        if self._found[name] is not None:
            raise ValueError(f"{name} lies in an archive of {self.root}: unpack it.")
        return self.root / name

    def open_text(self, name: str) -> TextIO:
        """Opens a text file in UTF-8; one outside of archives may have any size."""
        if self._found[name] is None:
            return open(self.root / name, encoding="utf-8", newline="")
        return io.StringIO(self.read(name).decode("utf-8"), newline="")

    def lines(self, name: str) -> list[str]:
        """Reads the lines of a text file that are not empty, stripped."""
        with self.open_text(name) as file:
            return [line.strip() for line in file if line.strip()]

    def _add(self, found: Iterable[tuple[str, Any]], origin: str) -> None:
        for name, place in found:
            if name in self._found:
                raise ValueError(
                    f"{self.root / origin} holds {name} a second time: remove the "
                    f"archives that are unpacked, or their files."
                )
            self._found[name] = place

    def _folder(self, archive: str) -> str:
        """Returns the folder of an archive's files, with "/" at its end, or ""."""
        if self._archive_folders:
            return archive.rpartition(".")[0] + "/"
        return archive[: archive.rfind("/") + 1]

    def _walk(self) -> Iterator[str]:
        home = self.root.resolve()
        for folder, subfolders, files in os.walk(self.root):  # links not followed
            subfolders[:] = [n for n in sorted(subfolders) if not n.startswith(".")]
            for name in [*subfolders, *sorted(files)]:
                path = pathlib.Path(folder, name)
                if not path.is_symlink():
                    if name in subfolders:
                        continue
                elif path.is_dir() or not path.resolve().is_relative_to(home):
                    logging.warning(
                        "%s is a link to %s: passed over. Put the files themselves "
                        "into %s, or give their folder.",
                        path,
                        path.resolve(),
                        self.root,
                    )
                    continue
                if not name.startswith("."):
                    yield path.relative_to(self.root).as_posix()

    def _in_tar(self, name: str) -> Iterator[tuple[str, Member]]:
        with open(self.root / name, "rb") as file:
            yield from _tar_members(file, self._folder(name), name, 0)

    def _in_zip(self, name: str) -> Iterator[tuple[str, str]]:
        try:
            self._zips[name] = zipfile.ZipFile(self.root / name)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{self.root / name} is damaged: {error}.") from error
        for info in self._zips[name].infolist():
            if not info.is_dir():
                yield self._folder(name) + info.filename, name


def _tar_members(
    file, folder: str, archive: str, start: int
) -> Iterator[tuple[str, Member]]:
    """Yields (name, place) of the regular files of a tar that begins at `start`."""
    file.seek(start)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            members = [
                (info.name, info.offset_data, info.size) for info in tar if info.isreg()
            ]
    except tarfile.TarError as error:
        raise ValueError(f"{archive} is damaged: {error}.") from error
    for name, offset, size in members:
        inner = folder + name.removeprefix("./")
        if name.endswith(".tar"):
            yield from _tar_members(file, inner[:-4] + "/", archive, offset)
        else:
            yield inner, Member(archive, offset, size)


def _bounded(name: str, size: int) -> int:
    if size > MAX_FILE_MIB * 2**20:
        raise ValueError(f"{name} has {size} bytes, more than {MAX_FILE_MIB} MiB.")
    return size
