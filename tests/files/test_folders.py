# SPDX-License-Identifier: Apache-2.0
"""Regular files of a folder are listed; everything else is left out with a reason."""

import os

import pytest

from ldm_jax.files.errors import UnreadableFile
from ldm_jax.files.folders import list_folder, refuse_special_files
from ldm_jax.files.stores.objects import sizes_in


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def test_regular_files_and_links_to_those_within_are_listed(tmp_path):
    touch(tmp_path / "b/c/1.png")
    touch(tmp_path / "a.png")
    (tmp_path / "link.png").symlink_to("b/c/1.png")
    assert list_folder(tmp_path).files == ["a.png", "b/c/1.png", "link.png"]
    assert list_folder(tmp_path).left_out == {}


def test_a_name_that_is_no_text_is_left_out_with_the_reason(tmp_path):
    touch(tmp_path / "a.png")
    touch(tmp_path / os.fsdecode(b"b\xff.png"))
    listing = list_folder(tmp_path)
    assert listing.files == ["a.png"]
    assert list(listing.left_out.values()) == [
        "has a name that is not UTF-8: rename it"
    ]


@pytest.mark.parametrize(
    "name",
    [
        ".DS_Store",
        "._x.png",
        "Thumbs.db",
        "desktop.ini",
        ".hidden/x.png",
        "@eaDir/x.png",
        "__MACOSX/x.png",
        "lost+found/x.png",
    ],
)
def test_side_files_and_side_folders_are_not_mentioned(tmp_path, name):
    touch(tmp_path / name)
    touch(tmp_path / "sub" / name)
    assert list_folder(tmp_path) == ([], {})


def test_what_is_no_regular_file_within_is_left_out_with_the_reason(tmp_path):
    root = tmp_path / "root"
    touch(tmp_path / "outside/x.png")
    touch(root / "sub/x.png")
    os.mkfifo(root / "fifo.png")
    for name, target in {
        "device.png": "/dev/zero",
        "gone.png": "nowhere",
        "loop.png": "loop.png",
        "out.png": tmp_path / "outside/x.png",
        "folder": tmp_path / "outside",
        "inner": "sub",
    }.items():
        (root / name).symlink_to(target)
    listing = list_folder(root)
    assert listing.files == ["sub/x.png"]
    words = {
        "device.png": "is a device",
        "fifo.png": "is a FIFO",
        "folder": "is a link to a folder",
        "gone.png": "not there",
        "inner": "is a link to a folder",
        "loop.png": "leads nowhere",
        "out.png": "leads out of",
    }
    assert list(listing.left_out) == list(words)
    for name, word in words.items():
        assert word in listing.left_out[name]


def test_folders_can_be_excluded(tmp_path):
    touch(tmp_path / "maps/x.png")
    touch(tmp_path / "x.png")
    listing = list_folder(tmp_path, lambda folder: folder != tmp_path / "maps")
    assert listing.files == ["x.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list any folder")
def test_a_folder_that_cannot_be_listed_is_left_out_with_the_reason(tmp_path):
    touch(tmp_path / "closed/x.png")
    os.chmod(tmp_path / "closed", 0)
    try:
        assert "cannot be listed" in list_folder(tmp_path).left_out["closed"]
    finally:
        os.chmod(tmp_path / "closed", 0o700)


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        list_folder(tmp_path / "gone")


def test_a_folder_that_a_library_reads_whole_may_have_regular_files_only(tmp_path):
    touch(tmp_path / "a/1")
    (tmp_path / "link").symlink_to("a")  # to a folder, not followed
    refuse_special_files(tmp_path)
    refuse_special_files(tmp_path / "gone")
    os.mkfifo(tmp_path / "a/z")
    with pytest.raises(UnreadableFile, match="a/z is a FIFO"):
        refuse_special_files(tmp_path)


def test_only_regular_files_have_a_size(tmp_path):
    touch(tmp_path / "1")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    os.mkfifo(tmp_path / "fifo")
    assert sizes_in(tmp_path) == {"1": 1}
