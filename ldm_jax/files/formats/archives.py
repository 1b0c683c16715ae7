# SPDX-License-Identifier: Apache-2.0
"""Reads members of untrusted zip and tar archives; nothing is unpacked."""

import io
import os
import tarfile
import zipfile
from collections.abc import Iterator
from typing import IO, BinaryIO, NamedTuple

from ldm_jax.files.errors import UnreadableFile, reading, shown
from ldm_jax.files.paths import PathLike, printable
from ldm_jax.files.reading import opened, regular_file

# Ten times the images of the largest set that comes as one archive (Places, 8 million
# in all).
MAX_MEMBERS = 20_000_000
# Deflate, the densest of the usual compressions, makes at most 1032 bytes of one.
MAX_RATIO = 1032
# ImageNet's archive of training images holds an archive per class.
MAX_NESTED_TARS = 1


class ZipMembers:
    """The members of a zip archive, read one at a time; safe to use from threads.

    Attributes:
      path: of the archive.
      sizes: {name: bytes} of the members that are not folders.
    """

    def __init__(self, path: PathLike):
        """Opens an archive and checks its table of contents.

        Raises:
          UnreadableFile: no zip, a name that occurs twice, or a member that claims
            more bytes than the file can hold.
        """
        self.path = regular_file(path, "an archive")
        size = self.path.stat().st_size
        with reading(path, rule="is damaged"):
            self._zip = zipfile.ZipFile(self.path)
            infos = [info for info in self._zip.infolist() if not info.is_dir()]
        self._infos = {info.filename: info for info in infos}
        if len(self._infos) != len(infos):
            names = [info.filename for info in infos]
            twice = next(name for name in self._infos if names.count(name) > 1)
            raise UnreadableFile(
                f"{printable(path)} is not read: {shown(twice)} occurs twice in it."
            )
        for info in infos:
            ratio = 1 if info.compress_type == zipfile.ZIP_STORED else MAX_RATIO
            if info.compress_size > size or info.file_size > ratio * info.compress_size:
                raise UnreadableFile(
                    f"{printable(path)}: {shown(info.filename)} claims "
                    f"{info.file_size:,} bytes, more than the file can hold; it is "
                    "damaged or made to exhaust memory."
                )
        self.sizes = {name: info.file_size for name, info in self._infos.items()}

    def read(self, name: str, max_bytes: int) -> bytes:
        """Reads a member; its checksum is verified.

        Raises:
          UnreadableFile: it is damaged, encrypted or larger than `max_bytes`; names
            archive and member.
        """
        check_member_size(self.path, name, self.sizes[name], max_bytes)
        with reading(self.path, f"member {printable(name)}"):
            return self._zip.read(self._infos[name])

    def check_inflated(self, name: str, max_bytes: int) -> None:
        """Raises UnreadableFile if a compressed member is larger than `max_bytes`."""
        if self._infos[name].compress_type != zipfile.ZIP_STORED:
            check_member_size(self.path, name, self.sizes[name], max_bytes)

    def open(self, name: str) -> IO[bytes]:
        """Opens a member; wrap the code that reads it in `reading`."""
        return self._zip.open(self._infos[name])

    def close(self) -> None:
        """Closes the archive."""
        self._zip.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class TarMember(NamedTuple):
    """Position of a member in a tar archive: bytes start to start + size."""

    name: str
    start: int
    size: int


def tar_members(path: PathLike) -> Iterator[TarMember]:
    """Lists the regular files of an uncompressed tar, and of the tars inside it.

    Members of an inner archive `a.tar` are named `a/...`.

    Raises:
      UnreadableFile: it is not a tar, is cut off, or nests archives three levels deep.
    """
    with opened(path, "an archive") as file:
        size = os.fstat(file.fileno()).st_size
        yield from _members(path, _Part(file, 0, size), "", 0)


def read_tar_member(path: PathLike, member: TarMember, max_bytes: int) -> bytes:
    """Reads a member.

    Raises:
      UnreadableFile: it is larger than `max_bytes`, or the archive is cut off.
    """
    check_member_size(path, member.name, member.size, max_bytes)
    with opened(path, "an archive") as file:
        file.seek(member.start)
        data = file.read(member.size)
        if len(data) != member.size:
            raise UnreadableFile(
                f"{printable(path)}, member {printable(member.name)}: the archive is "
                "cut off."
            )
        return data


def check_member_size(path: PathLike, name: str, size: int, max_bytes: int) -> None:
    """Raises UnreadableFile if a member is larger than what is read as a whole."""
    if size > max_bytes:
        raise UnreadableFile(
            f"{printable(path)}, member {printable(name)} has {size} bytes: at most "
            f"{max_bytes} are read of such a file."
        )


class _Part(io.RawIOBase):
    """A file object that reads a part of another file."""

    def __init__(self, file: BinaryIO, start: int, size: int):
        self.file, self.start, self.size = file, start, size
        self._at = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise ValueError("a negative position")
        self._at = base + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self.size - self._at)
        size = left if size is None or size < 0 else min(size, left)
        self.file.seek(self.start + self._at)
        data = self.file.read(size)
        self._at += len(data)
        return data


def _members(
    path: PathLike, part: _Part, folder: str, depth: int
) -> Iterator[TarMember]:
    """Lists the files of the tar that is in a part of a file."""
    place = f"member {printable(folder[:-1])}.tar" if folder else ""
    if not part.size:
        raise UnreadableFile(f"{printable(path)}{place and ', ' + place} is empty.")
    for info in _regular(path, part, place):
        name = folder + info.name.removeprefix("./")
        start = part.start + info.offset_data
        if not name.endswith(".tar"):
            yield TarMember(name, start, info.size)
            continue
        if depth == MAX_NESTED_TARS:
            raise UnreadableFile(
                f"{printable(path)}, member {printable(name)} is an archive in an "
                "archive in an archive, which is not read: unpack the outer one."
            )
        inner = _Part(part.file, start, info.size)
        yield from _members(path, inner, name[: -len(".tar")] + "/", depth + 1)


def _regular(path: PathLike, part: _Part, place: str) -> list[tarfile.TarInfo]:
    """Lists the regular members of a tar, each within it, in the order of the file."""
    infos, end = [], -1
    with (
        reading(path, place, rule="is damaged"),
        tarfile.open(fileobj=part, mode="r:") as tar,
    ):
        while (info := tar.next()) is not None:
            # Else it keeps all of them a second time.
            tar.members = []  # pyright: ignore[reportAttributeAccessIssue]
            if info.size < 0 or info.offset <= end:
                raise ValueError(f"{shown(info.name)} leads back in the archive")
            end = info.offset
            if not info.isreg():
                continue
            if info.issparse():
                raise ValueError(f"{shown(info.name)} is a sparse file")
            if info.offset_data + info.size > part.size:
                raise ValueError(f"it ends within {shown(info.name)}")
            infos.append(info)
            if len(infos) > MAX_MEMBERS:
                raise ValueError(f"it has more than {MAX_MEMBERS:,} members")
    return infos
