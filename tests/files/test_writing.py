# SPDX-License-Identifier: Apache-2.0
"""Files and folders are written atomically, also with two writers at once."""

import errno
import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from ldm_jax.files import outputs, writing
from ldm_jax.files.write_errors import reported, write_error
from ldm_jax.files.writing import (
    AlreadyWritten,
    atomic_directory,
    atomic_file,
    new_files,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_its_block_ends(tmp_path):
    path = tmp_path / "new" / "a.bin"
    with atomic_file(path) as file:
        file.write(b"1")
        assert not path.exists()
    assert path.read_bytes() == b"1" and names(path.parent) == ["a.bin"]


def test_a_file_whose_block_fails_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(path, "w") as file:
        file.write("new")
        raise RuntimeError
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_two_writers_of_one_file_never_mix(tmp_path):
    path = tmp_path / "a"
    with atomic_file(path) as first, atomic_file(path) as second:
        first.write(b"first")
        second.write(b"second")
    assert path.read_bytes() == b"first"  # the last to end
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("has_links", [True, False])
def test_the_second_writer_of_a_new_file_is_refused(has_links, tmp_path, monkeypatch):
    if not has_links:

        def refuse(*_):
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "a"
    with (
        pytest.raises(AlreadyWritten, match=r"a was written by another process"),
        new_files(tmp_path / "b", path) as slow,
    ):
        with new_files(path) as quick:
            (quick / "a").write_bytes(b"quick")
        for name in "ab":
            (slow / name).write_bytes(b"slow")
    assert path.read_bytes() == b"quick" and names(tmp_path) == ["a"]


def test_a_folder_appears_when_its_block_ends(tmp_path):
    out = tmp_path / "out"
    out.mkdir()  # an empty folder is not a result
    with atomic_directory(out) as folder:
        (folder / "a").write_text("1")
        assert names(out) == []
    assert names(out) == ["a"] and names(tmp_path) == ["out"]


def test_the_second_writer_of_a_folder_is_refused_and_the_first_stays(tmp_path):
    out = tmp_path / "out"
    with (
        pytest.raises(AlreadyWritten, match="its result was kept"),
        atomic_directory(out) as slow,
    ):
        (slow / "slow").write_text("")
        with atomic_directory(out) as quick:
            (quick / "quick").write_text("")
    assert names(out) == ["quick"] and names(tmp_path) == ["out"]


def test_folders_made_for_a_result_go_with_it_where_its_block_fails(tmp_path):
    (tmp_path / "there").mkdir()
    for make in (atomic_directory, new_files):
        with (
            pytest.raises(RuntimeError),
            make(tmp_path / "there" / "new" / "deep" / "result"),
        ):
            raise RuntimeError
    assert [*tmp_path.rglob("*")] == [tmp_path / "there"]


@pytest.mark.parametrize("make", ["file", "folder"])
def test_a_folder_that_exists_is_refused_before_any_work(make, tmp_path):
    out = tmp_path / "out"
    if make == "file":
        out.write_text("")
    else:
        out.mkdir()
        (out / "a").write_text("")
    message = r"--out must be new: .* exists; choose"
    with pytest.raises(ValueError, match=message), atomic_directory(out):
        pytest.fail("the block ran")


@pytest.mark.parametrize("operation", range(1, 7))
def test_a_killed_writer_leaves_the_old_file_or_the_new_one(operation, tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    program = (
        "import sys\n"
        "from tests.kills import kill_at_operation\n"
        "from ldm_jax.files.writing import write_text\n"
        "kill_at_operation(int(sys.argv[2]), sys.argv[1])\n"
        "write_text(sys.argv[1] + '/a', 'new')\n"
    )
    argv = [sys.executable, "-c", program, str(tmp_path), str(operation)]
    assert subprocess.run(argv).returncode == -signal.SIGKILL
    assert path.read_text() == ("old" if operation <= 4 else "new")
    assert all(n == "a" or n.endswith(".partial") for n in names(tmp_path))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, None])
def test_an_error_of_writing_has_path_and_free_space(number, tmp_path):
    def fail():
        # NumPy reports a full disk so, without an error number.
        raise (
            OSError("4608 requested and 3916 written")
            if number is None
            else OSError(number, os.strerror(number))
        )

    path = tmp_path / "a"
    message = r"could not write .*/a \(\d.* GiB free\): "
    with pytest.raises(OSError, match=message), atomic_file(path):
        fail()
    assert names(tmp_path) == []


def test_an_error_of_reading_within_a_block_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"), atomic_file(tmp_path / "a"):
        (tmp_path / "missing").read_text()


def test_an_error_of_reading_elsewhere_is_no_error_of_writing(tmp_path):
    out = tmp_path / "out" / "a"
    error = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "source"))
    with pytest.raises(PermissionError, match="source"), atomic_file(out):
        raise error
    error = PermissionError(errno.EACCES, "Permission denied", str(out))
    with pytest.raises(OSError, match=r"could not write .*/a \("), atomic_file(out):
        raise error


def test_errors_of_libraries_count_where_nothing_else_can_fail(tmp_path):
    message = r"could not write a shard to .*/a \(.* GiB free\): disk full$"
    with (
        pytest.raises(OSError, match=message),
        reported(tmp_path / "outer"),  # adds nothing to what is reported already
        reported(tmp_path / "a", "a shard", every=True),
    ):
        raise RuntimeError("disk full\nstack:\n...")


def test_an_error_of_tensorstore_is_named_as_the_system_does(tmp_path):
    text = (
        'RESOURCE_EXHAUSTED: Error writing "params.a/0" in OCDBT database at local '
        "file \"/a/\": Failed writing: No space left on device [os_error_code='28']"
    )
    error = write_error(tmp_path / "a", ValueError(text), "a checkpoint")
    assert error.errno == errno.ENOSPC
    assert str(error).endswith("GiB free): No space left on device")


def test_a_file_in_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"--out must be a directory .*file/x"):
        outputs.check_writable(tmp_path / "file" / "x")
    (tmp_path / "broken").symlink_to(tmp_path / "nothing" / "there")
    for place in (tmp_path / "broken", tmp_path / "broken" / "x"):
        with pytest.raises(OSError, match=r"must be a .*is a link to what does not"):
            outputs.check_writable(place)
    with pytest.raises(IsADirectoryError, match="must name a file"):
        outputs.check_writable_file(tmp_path)


@pytest.mark.parametrize(
    "check",
    [outputs.check_writable, outputs.check_writable_file, outputs.check_absent],
)
def test_a_name_that_is_no_text_is_refused_for_a_result(check, tmp_path):
    """Libraries cannot write it: a run would be lost at its first checkpoint."""
    path = tmp_path / os.fsdecode(b"a\xff")
    with pytest.raises(
        ValueError, match=r"--out must be a name in UTF-8: got .*a\\udcff"
    ):
        check(path, "--out")
    assert not list(tmp_path.iterdir())


def test_only_earlier_results_of_a_command_are_replaced(tmp_path):
    """Else a mistyped --out would cost a user's own file."""
    path = tmp_path / "a.png"
    for content in (b"", b"before \x89ours after"):
        path.write_bytes(content)
        outputs.check_writable_file(path, mark=b"ours")
    for content in (b"a photograph", b"\0" * 10_000 + b"ours"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"--out must be new.*a\.png is another f"):
            outputs.check_writable_file(path, mark=b"ours")


def test_a_result_among_the_images_is_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    for out in ("photos", "photos/run", "link/run", "photos/../photos/a/b"):
        with pytest.raises(ValueError, match="--out must be outside of the images: g"):
            outputs.check_outside(tmp_path / out, [tmp_path / "photos"])
    for out in (tmp_path, tmp_path / "photos2", "gs://bucket/photos"):
        outputs.check_outside(out, [tmp_path / "photos"])


def test_a_name_of_another_kind_is_refused_in_a_folder_of_results(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").write_text("")
    outputs.check_kinds(tmp_path, files=["b", "new"], folders=["a", "new"])
    with pytest.raises(OSError, match=r"a must be a file.*it is a folder; move"):
        outputs.check_kinds(tmp_path, files=["a"], folders=[])
    with pytest.raises(OSError, match=r"b must be a folder.*it is a file; move"):
        outputs.check_kinds(tmp_path, files=[], folders=["b"])


def test_a_check_leaves_nothing_behind(tmp_path):
    outputs.check_writable(tmp_path / "new" / "sub")
    outputs.check_writable_file(tmp_path / "new" / "a.npz")
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_what_cannot_be_written_is_found_by_the_check(number, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("pathlib.Path.write_bytes", fail)
    message = {
        errno.ENOSPC: r"could not write .*/new \(.* GiB free\): No space left",
        errno.EROFS: r"--out must be .* got .*/new \(Read-only file system\). Choose",
    }[number]
    with pytest.raises(OSError, match=message):
        outputs.check_writable(tmp_path / "new")


def test_an_error_names_the_package_that_a_store_needs(monkeypatch):
    def fail(*_):
        raise ImportError("gcsfs")

    monkeypatch.setattr("etils.epath.gpath.PosixGPath.write_bytes", fail)
    with pytest.raises(ValueError, match=r"pip install 'ldm_jax\[gcs\]'"):
        outputs.check_writable("gs://bucket/run")


@pytest.mark.parametrize("write", [atomic_file, atomic_directory, new_files])
def test_a_url_never_becomes_a_folder(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = r"must be on a file system: got gs:/+bucket/a.npz; write to"
    for path in ("gs://bucket/a.npz", pathlib.Path("gs://bucket/a.npz")):
        with pytest.raises(ValueError, match=message), write(path):
            pytest.fail("the block ran")
    assert names(tmp_path) == []


def test_links_are_followed_and_devices_are_left_alone(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "a")
    writing.write_text(tmp_path / "link", "x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / "a").read_text() == "x"
    os.mkfifo(tmp_path / "fifo")
    for path in ("/dev/null", tmp_path / "fifo"):
        with pytest.raises(OSError, match="must name a regular file"):
            writing.write_text(path, "x")
        with pytest.raises(OSError, match="--out must name a regular file"):
            outputs.check_writable_file(path)


def test_json_and_lines_come_back(tmp_path):
    writing.write_json(tmp_path / "a.json", {"a": [1]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1]}
    for line in ("1", "2"):
        writing.append_line(tmp_path / "rows", line)
    assert (tmp_path / "rows").read_text() == "1\n2\n"
    assert names(tmp_path) == ["a.json", "rows"]
