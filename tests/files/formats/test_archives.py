# SPDX-License-Identifier: Apache-2.0
"""Members of archives are read in place, and archives cannot cause unbounded work."""

import io
import struct
import tarfile
import zipfile

import pytest

from ldm_jax.files.errors import UnreadableFile
from ldm_jax.files.formats.archives import (
    TarMember,
    ZipMembers,
    read_tar_member,
    tar_members,
)
from tests.counting import few_lines


def make_tar(members, format=tarfile.PAX_FORMAT) -> bytes:
    """A tar of (name, bytes)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _written(path, data):
    path.write_bytes(data)
    return path


def test_members_of_a_tar_and_of_the_tars_in_it_are_read_in_place(tmp_path):
    inner = make_tar([("x.jpg", b"one"), ("d/y.jpg", b"two")])
    outer = make_tar([("./n01.tar", inner), ("z.txt", b"three")])
    path = _written(tmp_path / "a.tar", outer)
    members = {member.name: member for member in tar_members(path)}
    assert sorted(members) == ["n01/d/y.jpg", "n01/x.jpg", "z.txt"]
    data = [read_tar_member(path, members[name], 10) for name in sorted(members)]
    assert data == [b"two", b"one", b"three"]


def _nested(levels: int) -> bytes:
    data = make_tar([("x", b"")])
    for _ in range(levels):
        data = make_tar([("a.tar", data)])
    return data


def _gnu_header(size: bytes) -> bytes:
    """A header whose size is in base 256, which can be negative."""
    header = bytearray(make_tar([("x", b"")])[:512])
    header[124:136] = size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"x" * 1000, "ReadError"),
        (make_tar([("x", b"12345")])[:514], "ends within 'x'"),
        (_nested(2), "archive in an archive"),
        (make_tar([("00.tar", b"")]), "00.tar is empty"),
        (_gnu_header(b"\xff" * 12) + bytes(4096), "leads back|HeaderError|ReadError"),
        (_gnu_header(b"\x80" + b"\xff" * 11) + bytes(4096), "ends within"),
    ],
)
def test_tars_that_are_none_or_cut_off_are_refused(tmp_path, data, words):
    path = _written(tmp_path / "a.tar", data)
    with pytest.raises(UnreadableFile, match=rf"a\.tar.*({words})"):
        list(tar_members(path))


@pytest.mark.parametrize("data", [b"", make_tar([])], ids=["empty", "no members"])
def test_many_archives_in_an_archive_take_linear_time(tmp_path, data):
    """Oracle: read to the end of the outer one each, 300 would take 2^300 passes."""
    members = [(f"{i:03}.tar", data) for i in range(300)]
    path = _written(tmp_path / "a.tar", make_tar(members))
    with few_lines(1_000 * len(members)):
        if data:
            assert list(tar_members(path)) == []
        else:
            with pytest.raises(UnreadableFile, match=r"000\.tar is empty"):
                list(tar_members(path))


def test_a_sparse_member_is_refused(tmp_path):
    data = bytearray(make_tar([("x", b"")], tarfile.GNU_FORMAT))
    data[156:157] = b"S"
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    path = _written(tmp_path / "a.tar", data)
    with pytest.raises(UnreadableFile, match="sparse"):
        list(tar_members(path))


def test_a_tar_that_is_cut_off_later_is_noticed_when_read(tmp_path):
    path = _written(tmp_path / "a.tar", b"short")
    with pytest.raises(UnreadableFile, match="cut off"):
        read_tar_member(path, TarMember("x", 3, 10), 100)


def make_zip(members, compression=zipfile.ZIP_DEFLATED) -> bytes:
    """A zip of (name, bytes)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def test_members_of_a_zip_are_read(tmp_path):
    path = _written(tmp_path / "a.zip", make_zip([("d/", b""), ("d/x", b"one")]))
    with ZipMembers(path) as archive:
        assert archive.sizes == {"d/x": 3}
        assert archive.read("d/x", 10) == b"one"
        with pytest.raises(UnreadableFile, match=r"a\.zip, member d/x has 3 bytes"):
            archive.read("d/x", 2)


def _damaged_zip(compression) -> bytes:
    data = bytearray(make_zip([("x", bytes(range(256)) * 4)], compression))
    data[60] ^= 0xFF
    return bytes(data)


@pytest.mark.parametrize(
    "compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA]
)
def test_a_damaged_member_is_named_and_the_archive_opens(tmp_path, compression):
    path = _written(tmp_path / "a.zip", _damaged_zip(compression))
    archive = ZipMembers(path)
    with pytest.raises(UnreadableFile, match=r"a\.zip, member x"):
        archive.read("x", 10**6)


def test_an_encrypted_member_is_unreadable(tmp_path):
    data = bytearray(make_zip([("x", b"one")]))
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(mark) + place] |= 1
    archive = ZipMembers(_written(tmp_path / "a.zip", data))
    with pytest.raises(UnreadableFile, match="encrypted"):
        archive.read("x", 10**6)


def test_a_zip_that_claims_more_than_it_holds_is_refused(tmp_path):
    data = bytearray(make_zip([("x", b"one")]))
    at = data.index(b"PK\1\2") + 24
    data[at : at + 4] = struct.pack("<I", 2**31)
    with pytest.raises(UnreadableFile, match="'x' claims"):
        ZipMembers(_written(tmp_path / "a.zip", data))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_with_a_name_twice_is_refused(tmp_path):
    path = _written(tmp_path / "a.zip", make_zip([("x", b"1"), ("x", b"2")]))
    with pytest.raises(UnreadableFile, match="'x' occurs twice"):
        ZipMembers(path)


def test_a_cut_zip_is_refused(tmp_path):
    path = _written(tmp_path / "a.zip", make_zip([("x", b"one")])[:-30])
    with pytest.raises(UnreadableFile, match=r"a\.zip is damaged"):
        ZipMembers(path)
