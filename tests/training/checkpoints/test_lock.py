# SPDX-License-Identifier: Apache-2.0
"""One run per directory, and no lock outlives its run."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest

from ldm_jax.training.checkpoints.lock import STALE_SECONDS, RunLock


def leave_lock(directory, **changes):
    """Writes the lock of another run."""
    owner = dict(host=socket.gethostname(), pid=1, process_started="0", start="noon")
    (directory / "run.lock").write_text(json.dumps({**owner, **changes}))


def test_a_second_run_is_refused_and_told_who_is_there(tmp_path):
    lock = RunLock(tmp_path)
    with pytest.raises(RuntimeError, match=f"process {os.getpid()} on .*started"):
        RunLock(tmp_path)
    lock.release()
    RunLock(tmp_path).release()
    assert not list(tmp_path.iterdir())


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    child = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"],
        capture_output=True,
        text=True,
        check=True,
    )
    leave_lock(tmp_path, pid=int(child.stdout))
    RunLock(tmp_path).release()


def test_the_lock_of_an_earlier_process_of_the_same_id_is_taken_over(tmp_path):
    leave_lock(tmp_path, pid=os.getpid(), process_started="1")
    RunLock(tmp_path).release()


def test_the_lock_of_another_machine_is_taken_over_when_it_is_old(tmp_path):
    leave_lock(tmp_path, host="elsewhere")
    with pytest.raises(RuntimeError, match="on elsewhere"):
        RunLock(tmp_path)
    old = time.time() - STALE_SECONDS - 1
    os.utime(tmp_path / "run.lock", (old, old))
    RunLock(tmp_path).release()


def test_the_lock_of_a_run_that_lives_does_not_grow_old(tmp_path, monkeypatch):
    monkeypatch.setattr("ldm_jax.training.checkpoints.lock.RENEW_SECONDS", 0.02)
    lock = RunLock(tmp_path)
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
    RunLock(tmp_path).release()
