# SPDX-License-Identifier: Apache-2.0
"""Reads untrusted LMDB databases page by page, and checks every number in them.

The LMDB library maps the file and trusts its pages, so a damaged file can end the
process. This reader maps nothing and reports an invalid page as damage.

    meta page    two of them; the one of the later transaction names the root
    branch page  nodes of (key, page below)
    leaf page    nodes of (key, value, or first of the overflow pages that hold it)

Source: lmdb.h and mdb.c of OpenLDAP, data version 1, 64 bits, little-endian.
"""

import array
import bisect
import os
import struct
from typing import NamedTuple

from ldm_jax.files.errors import UnreadableFile, reading
from ldm_jax.files.paths import PathLike, printable
from ldm_jax.files.reading import regular_file

MAGIC, VERSION = 0xBEEFC0DE, 1
PAGE_HEADER, NODE_HEADER = 16, 8
BRANCH, LEAF, OVERFLOW, META = 1, 2, 4, 8  # flags of pages
BIG, OTHERS = 1, 6  # flags of nodes: in overflow pages; databases inside, duplicates
PAGE_SIZES = tuple(2**n for n in range(8, 17))
MAX_DEPTH = 32  # the library's own
NO_PAGE = 2**64 - 1


class _Meta(NamedTuple):
    """The contents of a meta page: size of pages, root, the last page in use."""

    page_size: int
    root: int
    last_page: int
    transaction: int


class Lmdb:
    """The main database of a file, which stays open; safe to read from threads.

    Attributes:
      names: the keys, in their order.
    """

    def __init__(self, path: PathLike):
        """Opens a database and lists its keys; no value is read.

        Raises:
          UnreadableFile: it is not such a file, damaged or cut off.
        """
        self._path = regular_file(path, "a database (data.mdb)")
        self.names: list[str] = []
        self._starts, self._sizes = array.array("Q"), array.array("Q")
        self._file = open(self._path, "rb")  # noqa: SIM115 (kept open)
        self._size = os.fstat(self._file.fileno()).st_size
        with reading(path, rule="must be a complete LMDB database"):
            self._meta = self._newest_meta()
            needed = (self._meta.last_page + 1) * self._meta.page_size
            if self._size < needed:
                raise ValueError(f"it must have {needed} bytes, it has {self._size}")
            self._visited: set[int] = set()
            if self._meta.root != NO_PAGE:
                self._list(self._meta.root, MAX_DEPTH)
            del self._visited

    def read(self, name: str, max_bytes: int) -> bytes:
        """Reads a value.

        Raises:
          UnreadableFile: there is none of this name, or it is larger than `max_bytes`.
        """
        at = bisect.bisect_left(self.names, name)
        if at == len(self.names) or self.names[at] != name:
            raise UnreadableFile(
                f"{printable(name)} is not in {printable(self._path)}."
            )
        with reading(self._path, f"key {printable(name)}"):
            if self._sizes[at] > max_bytes:
                raise ValueError(f"it has {self._sizes[at]:,} bytes, more than is read")
            return self._bytes(self._starts[at], self._sizes[at])

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _bytes(self, start: int, size: int) -> bytes:
        data = os.pread(self._file.fileno(), size, start)
        if len(data) != size:
            raise EOFError("it is cut off")
        return data

    def _newest_meta(self) -> _Meta:
        first = _read_meta(self._bytes(0, 152))
        second = _read_meta(self._bytes(first.page_size, 152))
        return max(first, second, key=lambda meta: meta.transaction)

    def _page(self, number: int) -> bytes:
        """Reads a page of the tree, once."""
        if not 1 < number <= self._meta.last_page or number in self._visited:
            raise ValueError(f"page {number} is out of place")
        self._visited.add(number)
        size = self._meta.page_size
        page = self._bytes(number * size, size)
        if int.from_bytes(page[:8], "little") != number:
            raise ValueError(f"page {number} is not where it belongs")
        return page

    def _list(self, number: int, depth: int) -> None:
        """Collects the keys below a page."""
        page = self._page(number)
        flags, lower = struct.unpack_from("<HH", page, 10)
        kind = flags & (BRANCH | LEAF | OVERFLOW | META | 0x60)
        if kind not in (BRANCH, LEAF) or not depth:
            raise ValueError(f"page {number} is of the wrong kind, {flags:#x}")
        if not PAGE_HEADER <= lower <= len(page):
            raise ValueError(f"page {number} has no table of nodes")
        count = (lower - PAGE_HEADER) // 2
        for at in struct.unpack_from(f"<{count}H", page, PAGE_HEADER):
            low, high, node_flags, key_size = struct.unpack_from("<4H", page, at)
            if kind == BRANCH:
                self._list(low | high << 16 | node_flags << 32, depth - 1)
            else:
                key = page[at + NODE_HEADER : at + NODE_HEADER + key_size]
                start = at + NODE_HEADER + key_size
                self._note(number, page, key, start, low | high << 16, node_flags)

    def _note(
        self, number: int, page: bytes, key: bytes, at: int, size: int, flags: int
    ) -> None:
        """Stores a key of a leaf and the position of its value."""
        if flags & OTHERS:
            raise ValueError("it has several databases, or several values for a key")
        name, page_size = key.decode(), self._meta.page_size
        if self.names and name <= self.names[-1]:
            raise ValueError(f"page {number} has keys that are not in order")
        start, end = number * page_size + at, (number + 1) * page_size
        if flags & BIG:
            (first,) = struct.unpack_from("<Q", page, at)
            start = first * page_size + PAGE_HEADER
            end = (self._meta.last_page + 1) * page_size
        if start + size > end:
            raise ValueError(f"a value of page {number} reaches out of the file")
        self.names.append(name)
        self._starts.append(start)
        self._sizes.append(size)


def _read_meta(page: bytes) -> _Meta:
    """Reads a meta page; ValueError if it is none."""
    flags, magic, version = struct.unpack_from("<10xH4xII", page)
    page_size = struct.unpack_from("<I", page, 40)[0]
    root, last_page, transaction = struct.unpack_from("<QQQ", page, 128)
    if not flags & META or magic != MAGIC or version != VERSION:
        raise ValueError(f"no meta page of data version {VERSION}")
    if page_size not in PAGE_SIZES or last_page >= 2**48:
        raise ValueError(f"pages of {page_size} bytes, the last is {last_page}")
    return _Meta(page_size, root, last_page, transaction)
