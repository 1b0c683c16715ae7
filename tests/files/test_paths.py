# SPDX-License-Identifier: Apache-2.0
"""Paths as users and strangers write them."""

import os
import pathlib

import pytest

from ldm_jax.files.paths import (
    expand,
    inside,
    is_remote,
    listed_paths,
    local,
    printable,
    printable_lines,
    resolve,
    shorten_middle,
)


def test_the_home_directory_is_expanded_and_urls_stay(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert os.fspath(resolve("~/a")) == str(tmp_path / "a")
    assert local("~/a", "it") == tmp_path / "a"
    monkeypatch.chdir(tmp_path)
    assert os.fspath(resolve("runs/a")) == str(tmp_path / "runs" / "a")
    assert os.fspath(resolve("gs://bucket/a/b")) == "gs://bucket/a/b"
    assert is_remote("s3://bucket") and not is_remote("/a/b")
    assert pathlib.Path(resolve("a")).is_absolute()


@pytest.mark.parametrize("path", [None, 5, b"digits", ["digits"], float("nan")])
def test_what_is_no_path_is_refused(path):
    for function in (is_remote, expand, resolve):
        with pytest.raises(TypeError, match="a path must be a text or a pathlib"):
            function(path)


def test_a_url_is_refused_where_files_are_needed():
    with pytest.raises(ValueError, match=r"file system: got gs://b/a.npz; write to a"):
        local("gs://b/a.npz", "the output of an export")


def test_a_user_without_a_home_is_refused():
    assert expand("./~nobody-of-this-name/a") == "./~nobody-of-this-name/a"
    with pytest.raises(ValueError, match=r"no home directory here; write the path"):
        expand("~nobody-of-this-name/a")


@pytest.mark.parametrize("url", ["ftp://host/a", "gs:/bucket/a", "file:///a"])
def test_a_url_that_is_of_no_store_is_refused(url):
    with pytest.raises(ValueError, match=r"must begin with gs://, s3://, az://: got"):
        resolve(url)


@pytest.mark.parametrize("path", ["./gs://b/a", "runs/gs:/b/a", "/tmp/s3://b"])
def test_a_url_within_a_local_path_is_refused(path):
    for read in (resolve, local):
        with pytest.raises(ValueError, match=r"local or a URL: got .*give the URL"):
            read(path)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "link/x"])
def test_a_name_that_leaves_its_folder_is_refused(name, tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="must be inside of it"):
        inside(tmp_path / "root", name)


def test_a_name_inside_its_folder_is_joined(tmp_path):
    assert inside(tmp_path, "a/b.txt") == tmp_path / "a" / "b.txt"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\nb", r"a\nb"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("caf\u00e9 \u732b", "caf\u00e9 \u732b"),
        ("\udcff", r"\udcff"),
        ("\u202ereversed", r"\u202ereversed"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(name, shown):
    assert printable(name) == shown


def test_the_lines_of_a_text_stay_lines():
    assert printable_lines("a\x1b[2Jb\nc\rd") == "a\\x1b[2Jb\nc\\rd"


def test_a_name_without_end_is_shortened():
    name = printable("a" * 10**6 + "/model.ckpt")
    assert name.startswith("aaa") and name.endswith("a/model.ckpt") and len(name) == 500
    assert shorten_middle("abcdefghij", 7) == "ab...ij"
    assert shorten_middle("abc", 3) == "abc"


def test_a_relative_path_in_a_deleted_directory_is_refused(monkeypatch, tmp_path):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(ValueError, match=r"^a is relative to .* deleted; change"):
        resolve("a")
    assert resolve(tmp_path) == tmp_path


def test_a_list_is_split_at_commas_but_no_name_that_exists(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert listed_paths("celebahq, ffhq") == ["celebahq", "ffhq"]
    assert listed_paths("gs://b/x,./a ") == ["gs://b/x", "./a"]
    for name in ("./my,photos", "./my, photos ", "./ a"):
        pathlib.Path(name).mkdir()
        assert listed_paths(name) == [name]
    assert listed_paths("./my,photos,./b") == ["./my", "photos", "./b"]
