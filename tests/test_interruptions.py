# SPDX-License-Identifier: Apache-2.0
"""Full and read-only disks, kills and two writers at once, for every command that
writes; `writing_commands` has the table."""

import signal
import subprocess
import sys

import pytest

from ldm_jax import cli
from ldm_jax.cli import make_parser
from tests.writing_commands import COMMANDS, write_inputs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(params=COMMANDS)
def row(request):
    row = COMMANDS[request.param]
    if not row.can_run:
        pytest.skip(f"{row.needs} is not installed")
    return row


def results(folder):
    """Names of the files below a folder, without what is hidden or named at random."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {
        path.as_posix()
        for path in files
        if not any(part.startswith(".") for part in path.parts)
        and path.parent.name not in ("d", "tensorboard")  # orbax's data, event files
    }


def run_alone(row, root, tmp_path):
    """Runs a command without a disturbance; returns the names of its results."""
    folder = tmp_path / "alone"
    folder.mkdir()
    assert cli.main(row.words(root, folder / "out")) == 0
    return results(folder)


@pytest.fixture
def disk(tmp_path):
    """A disk of 2 MiB; needs the right to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a disk")
    yield folder
    # Lazily: a failed checkpoint keeps a file of it open.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("kib", [0, 72])
def test_a_full_disk_is_reported_in_one_line(row, kib, root, disk):
    """In a process of its own: threads of libraries print what pytest would catch."""
    (disk / "ballast").write_bytes(b"\0" * (2048 - kib) * 1024)
    argv = [sys.executable, "-m", "ldm_jax.cli", *row.words(root, disk / "out")]
    run = subprocess.run(argv, capture_output=True, text=True)
    error = run.stderr
    if run.returncode == 0 and kib:
        pytest.skip("the result fits into what is free")
    assert run.returncode == 2
    assert "Traceback" not in error and "RESOURCE_EXHAUSTED" not in error
    last = error.strip().splitlines()[-1]
    assert "could not write" in last and str(disk) in last
    assert "0.00 GiB free" in last
    if row.kind == "new":
        assert results(disk) == {"ballast"}


def test_a_read_only_disk_is_reported_before_any_work(row, root, disk, capfd):
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert cli.main(row.words(root, disk / "out")) == 2
    error = capfd.readouterr().err
    assert "must be a directory that this process may write" in error
    assert str(disk) in error and "Read-only file system" in error
    assert len(error.strip().splitlines()) == 1
    assert results(disk) == set()


def test_of_two_writers_one_wins_and_the_other_gets_an_error(row, root, tmp_path):
    folder = tmp_path / "both"
    folder.mkdir()
    argv = [sys.executable, "-m", "ldm_jax.cli", *row.words(root, folder / "out")]
    both = [subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) for _ in "ab"]
    errors = [process.communicate()[1] for process in both]
    codes = sorted(process.returncode for process in both)
    if codes == [0, 0]:  # one after the other, or each some stages of a study
        assert row.kind != "new"
    else:
        assert codes == [0, 2], errors
        (loser,) = (e for e, p in zip(errors, both, strict=True) if p.returncode == 2)
        assert "in use by process" in loser or "must be new" in loser
    assert results(folder) == run_alone(row, root, tmp_path)


KILLED = """
import sys
from ldm_jax import cli
from tests.kills import kill_at_operation
count = kill_at_operation(int(sys.argv[1]), sys.argv[2])
code = cli.main(sys.argv[3:])
print("operations:", count())
sys.exit(code)
"""


def killed(row, root, folder, number):
    """Runs a command that is killed at an operation on files in a folder."""
    argv = [sys.executable, "-c", KILLED, str(number), str(folder)]
    words = row.words(root, folder / "out")
    return subprocess.run([*argv, *words], capture_output=True, text=True)


def test_after_a_kill_the_same_command_finishes(row, root, tmp_path):
    """At a quarter, at the middle and near the end of its operations on files."""
    whole = tmp_path / "whole"
    whole.mkdir()
    run = killed(row, root, whole, 0)
    assert run.returncode == 0, run.stderr
    total, expected = int(run.stdout.split()[-1]), results(whole)
    for number in {max(2, int(total * share)) for share in (0.25, 0.5, 0.9)}:
        folder = tmp_path / str(number)
        folder.mkdir()
        assert killed(row, root, folder, number).returncode == -signal.SIGKILL
        is_there = row.kind == "new" and results(folder)
        if is_there:  # whole, or not there
            assert results(folder) == expected
        code = cli.main(row.words(root, folder / "out"))
        assert code == (2 if is_there else 0)
        assert results(folder) == expected


# They write nothing, or where no path is given: to the terminal, or a served page.
WRITE_NOTHING = {"bench", "configs", "demo", "info", "plan"}
# A row by another name, or other tests.
ELSEWHERE = {"database": "tests/commands/test_database.py"}


def test_every_command_has_a_row():
    (commands,) = (a for a in make_parser()._actions if a.dest == "command")
    rows = {name.split()[0] for name in COMMANDS}
    assert set(commands.choices) == rows | WRITE_NOTHING | ELSEWHERE.keys()


def test_every_target_of_export_has_a_row():
    (commands,) = (a for a in make_parser()._actions if a.dest == "command")
    (form,) = (a for a in commands.choices["export"]._actions if a.dest == "form")
    assert {f"export {name}" for name in form.choices} <= COMMANDS.keys()
