# SPDX-License-Identifier: Apache-2.0
"""One run per directory, one writer per result, and no lock outlives its process."""

import errno
import json
import os
import socket
import subprocess
import sys
import time

import pytest

from ldm_jax.files.lock import STALE_SECONDS, Unusable, lock_directory, lock_output


def leave_lock(directory, **changes):
    """Writes the lock of another run."""
    owner = dict(host=socket.gethostname(), pid=1, start="noon")
    (directory / "run.lock").write_text(json.dumps({**owner, **changes}))


def test_a_second_run_is_refused_and_the_error_names_the_first(tmp_path):
    lock = lock_directory(tmp_path)
    with pytest.raises(RuntimeError, match=f"process {os.getpid()} on .*started"):
        lock_directory(tmp_path)
    lock.release()
    lock_directory(tmp_path).release()
    assert not list(tmp_path.iterdir())


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    child = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"],
        capture_output=True,
        text=True,
        check=True,
    )
    leave_lock(tmp_path, pid=int(child.stdout))
    lock_directory(tmp_path).release()


def test_the_lock_of_an_earlier_process_of_the_same_id_is_taken_over(tmp_path):
    leave_lock(tmp_path, pid=os.getpid())
    lock_directory(tmp_path).release()


def test_the_lock_of_another_machine_is_taken_over_when_it_is_old(tmp_path):
    leave_lock(tmp_path, host="elsewhere")
    with pytest.raises(RuntimeError, match="on elsewhere"):
        lock_directory(tmp_path)
    old = time.time() - STALE_SECONDS - 1
    os.utime(tmp_path / "run.lock", (old, old))
    lock_directory(tmp_path).release()


def test_the_lock_of_a_run_that_lives_does_not_grow_old(tmp_path, monkeypatch):
    monkeypatch.setattr("ldm_jax.files.lock.RENEW_SECONDS", 0.02)
    lock = lock_directory(tmp_path)
    old = time.time() - STALE_SECONDS - 1
    os.utime(tmp_path / "run.lock", (old, old))
    deadline = time.monotonic() + 10
    while (tmp_path / "run.lock").stat().st_mtime < time.time() - STALE_SECONDS:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    lock.release()
    time.sleep(0.05)
    assert not list(tmp_path.iterdir())


def test_a_cut_off_lock_is_taken_over(tmp_path):
    (tmp_path / "run.lock").write_text('{"ho')
    lock_directory(tmp_path).release()


HOLD = """
import sys, time
from ldm_jax.files.lock import lock_directory, lock_output
lock = dict(directory=lock_directory, output=lock_output)[sys.argv[1]](sys.argv[2])
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["directory", "output"])
def test_a_lock_ends_with_its_process_however_it_ends(kind, tmp_path):
    take = dict(directory=lock_directory, output=lock_output)[kind]
    path = tmp_path if kind == "directory" else tmp_path / "out.npz"
    argv = [sys.executable, "-c", HOLD, kind, str(path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(
            Unusable, match=f"in use by process {holder.pid} on .*started 20"
        ):
            take(path)
        with pytest.raises(Unusable, match=f"in use by process {holder.pid} on "):
            take(path)  # who was refused left the owner's name
        holder.kill()
        holder.wait()
        take(path).release()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_without_locks_of_the_kernel_the_lock_file_is_used(
    number, tmp_path, monkeypatch
):
    def refuse(self, *args, **how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    lock = lock_directory(tmp_path)
    with pytest.raises(Unusable, match=f"in use by process {os.getpid()} on"):
        lock_directory(tmp_path)
    lock.release()
    assert not list(tmp_path.iterdir())


def test_the_place_of_a_result_is_checked_and_the_result_left_alone(tmp_path):
    (tmp_path / "a").write_text("old")
    with lock_output(tmp_path / "a"), lock_output(tmp_path / "b"):
        with pytest.raises(Unusable, match=r"/a is in use .* choose another --out, or"):
            lock_output(tmp_path / "a")
        assert (tmp_path / "a").read_text() == "old"
    with pytest.raises(OSError, match=r"--out must be a directory .*\(Not a directory"):
        lock_output(tmp_path / "a" / "b")
    with pytest.raises(ValueError, match="--out must be on a file system: got gs://"):
        lock_output("gs://bucket/a.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
