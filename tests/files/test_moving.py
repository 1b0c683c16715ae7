# SPDX-License-Identifier: Apache-2.0
"""Files and folders are moved and removed."""

from ldm_jax.files.moving import move, remove


def test_what_is_moved_replaces_what_was_there(tmp_path):
    for name in ("a", "new/b"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "x").write_text(name)
    move(tmp_path / "a", tmp_path / "new" / "b")
    assert (tmp_path / "new" / "b" / "x").read_text() == "a"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_file_a_folder_or_nothing_is_removed_and_links_are_not_followed(tmp_path):
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    remove(tmp_path / "link")
    assert (tmp_path / "folder" / "inner").exists()
    for name in ("file", "folder", "file"):
        remove(tmp_path / name)
    assert list(tmp_path.iterdir()) == []
