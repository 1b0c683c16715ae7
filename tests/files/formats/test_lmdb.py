# SPDX-License-Identifier: Apache-2.0
"""LMDB databases are read page by page, and every number in them is checked."""

import os
import struct

import pytest

from ldm_jax.files.errors import MissingFile, UnreadableFile
from ldm_jax.files.formats.lmdb import Lmdb

lmdb = pytest.importorskip("lmdb")
PAGE = 4096
# More keys than a leaf page holds; every seventh value takes overflow pages.
VALUES = {
    f"key{i:05}": bytes([i % 256]) * (9000 if i % 7 == 0 else i % 50)
    for i in range(3000)
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("database")
    with (
        lmdb.open(str(folder), map_size=2**28) as database,
        database.begin(write=True) as writer,
    ):
        for name, value in VALUES.items():
            writer.put(name.encode(), value)
    return (folder / "data.mdb").read_bytes()


def opened(tmp_path, data):
    path = tmp_path / "data.mdb"
    path.write_bytes(data)
    return Lmdb(path)


def test_it_reads_what_the_library_wrote(tmp_path, whole):
    """Identity: keys in their order, values of pages, of overflow pages, and empty."""
    database = opened(tmp_path, whole)
    assert database.names == sorted(VALUES)
    for name, value in VALUES.items():
        assert database.read(name, 2**20) == value
    with pytest.raises(UnreadableFile, match=r"missing is not in .*data\.mdb"):
        database.read("missing", 2**20)
    with pytest.raises(UnreadableFile, match=r"key key00007 .*more than is read"):
        database.read("key00007", 100)


def test_the_later_of_two_transactions_counts(tmp_path):
    with lmdb.open(str(tmp_path)) as database:
        for value in (b"old", b"new"):
            with database.begin(write=True) as writer:
                writer.put(b"key", value)
    assert Lmdb(tmp_path / "data.mdb").read("key", 10) == b"new"


def test_an_empty_database_has_no_names(tmp_path):
    lmdb.open(str(tmp_path)).close()
    assert Lmdb(tmp_path / "data.mdb").names == []


def root_of(data):
    """Number of the root page, and where the meta page names it."""
    metas = [at for at in (0, PAGE) if data[at + 16 : at + 20] == b"\xde\xc0\xef\xbe"]
    at = max(metas, key=lambda at: struct.unpack_from("<Q", data, at + 144)[0])
    return struct.unpack_from("<Q", data, at + 128)[0], at + 128


def patched(data, at, form, value):
    data = bytearray(data)
    struct.pack_into(form, data, at, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"", "it is empty"),
        (lambda data: b"not a database" * 99, "no meta page"),
        (lambda data: data[: len(data) // 2 // PAGE * PAGE], "it has"),
        (lambda data: patched(data, 20, "<I", 999), "no meta page of data version 1"),
        (lambda data: patched(data, 40, "<I", 3), "pages of 3 bytes"),
        (lambda data: patched(data, root_of(data)[1], "<Q", 2**40), "out of place"),
        (lambda data: patched(data, root_of(data)[1], "<Q", 0), "out of place"),
        # The root's first node leads back to the root, or nowhere near.
        (lambda data: first_child(data, root_of(data)[0]), "out of place"),
        (lambda data: patched(data, page(data) + 10, "<H", 4), "of the wrong kind"),
        (lambda data: patched(data, page(data) + 12, "<H", 9), "no table of nodes"),
        (lambda data: patched(data, page(data), "<Q", 7), "not where it belongs"),
    ],
)
def test_pages_that_cannot_be_are_damage(tmp_path, whole, damage, message):
    """The library ends the process at some of them (SIGABRT, SIGBUS)."""
    with pytest.raises(UnreadableFile, match=rf"data\.mdb must be .*{message}"):
        opened(tmp_path, damage(whole))


def page(data):
    """Where the root page starts."""
    return root_of(data)[0] * PAGE


def first_child(data, number):
    (node,) = struct.unpack_from("<H", data, page(data) + 16)
    return patched(data, page(data) + node, "<H", number)


def test_a_database_that_is_cut_while_it_is_open_is_damage(tmp_path, whole):
    """A mapped one would end the process."""
    database = opened(tmp_path, whole)
    os.truncate(tmp_path / "data.mdb", 3 * PAGE)
    with pytest.raises(UnreadableFile, match=r"key key00007.*cut off"):
        database.read("key00007", 2**20)


def test_a_database_that_is_not_there_is_missing(tmp_path):
    with pytest.raises(MissingFile, match="a database"):
        Lmdb(tmp_path / "data.mdb")
