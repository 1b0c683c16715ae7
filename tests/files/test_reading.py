# SPDX-License-Identifier: Apache-2.0
"""Only regular files of bounded size are read, and texts in UTF-8."""

import os
import socket

import pytest

from ldm_jax.files.errors import MissingFile, UnreadableFile
from ldm_jax.files.reading import read_bytes, read_lines, read_text, regular_file


def _fifo(path):
    os.mkfifo(path)


def _socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(path))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_fifo, "is a FIFO"),
        (_socket, "is a socket"),
        (os.mkdir, "is a folder"),
        (lambda path: path.symlink_to("/dev/zero"), "is a device"),
        (lambda path: path.symlink_to("gone"), "a link to gone, which is not there"),
        (lambda path: path.symlink_to(path), "a link that leads nowhere"),
    ],
)
@pytest.mark.parametrize("read", [regular_file, read_bytes, read_text])
def test_only_regular_files_are_opened(tmp_path, monkeypatch, make, words, read):
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    path = tmp_path / "x"
    make(path if make is not _socket else "x")
    with pytest.raises(UnreadableFile, match=words):
        read(path)


@pytest.mark.parametrize("name", ["gone", "file/below", "nul\0", "x" * 300])
def test_a_file_that_is_not_there_is_missing(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(MissingFile, match="check the path"):
        read_bytes(tmp_path / name)


def test_a_link_to_a_file_is_read(tmp_path):
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").symlink_to("a")
    assert read_bytes(tmp_path / "b") == b"x"


def test_a_file_larger_than_the_bound_is_refused(tmp_path):
    with open(tmp_path / "a", "wb") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(UnreadableFile, match="1,099,511,627,776 bytes"):
        read_bytes(tmp_path / "a")


def test_the_byte_order_mark_of_utf_8_is_no_text(tmp_path):
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfx\n\n y \n")
    assert read_lines(tmp_path / "a") == ["x", "y"]


def test_only_line_breaks_divide_lines(tmp_path):
    """Identity: a vocabulary may hold what `str.splitlines` splits at."""
    lines = ["a\x0bb", "c\u2028d", "e\x85f"]
    (tmp_path / "a").write_text("\r\n".join(lines), encoding="utf-8")
    assert read_lines(tmp_path / "a") == lines


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("é".encode("latin1"), "UTF-8"),
        ("x".encode("utf-16"), "UTF-16"),
        (b"<!doctype html><p>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
)
def test_other_encodings_and_other_files_are_named(tmp_path, data, words):
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(UnreadableFile, match=rf"a\.txt.*{words}"):
        read_text(tmp_path / "a.txt")
