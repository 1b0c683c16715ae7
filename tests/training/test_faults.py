# SPDX-License-Identifier: Apache-2.0
"""Faults injected from outside: disks that fill, hosts that hang, lag or are lost.

Those of the checkpoint's files are in test_checkpoint, those of the settings and data
in test_settings and test_loop.
"""

import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax import cli
from ldm_jax.parallel.sharding import make_mesh, replicated
from ldm_jax.training.checkpoints.checkpointer import Checkpointer
from ldm_jax.training.checkpoints.params import load_params
from ldm_jax.training.monitoring.metric_rows import read_rows
from ldm_jax.training.monitoring.watchdog import EXIT_HANGS
from ldm_jax.training.state import TrainState
from tests.training.test_loop import fail_at, run

ROOT = Path(__file__).parents[2]


def state(step, mib=1):
    """A state of random numbers, which no compression makes smaller."""
    key = jax.random.fold_in(jax.random.key(0), step)
    values = jax.random.normal(key, (mib, 256, 1024))
    whole = replicated(make_mesh())
    params = jax.device_put({"unet": {"kernel": values}}, whole)
    return TrainState(jax.device_put(jnp.int32(step), whole), params, {}, {}, {})


def shapes_of(tree):
    shape = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)  # noqa: E731
    return jax.tree.map(shape, tree)


def test_a_full_disk_is_reported_and_loses_no_earlier_checkpoint(tmp_path):
    """F5: from step 2 on the kernel refuses what goes past 512 KiB of a file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpointer(tmp_path, keep=9) as checkpointer:
        checkpointer.save(state(1), {"at": 1})
        checkpointer.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, limits[1]))
        try:
            with pytest.raises(OSError, match=f"{tmp_path} .*GiB free") as error:
                checkpointer.save(state(2), {"at": 2})
                checkpointer.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(str(error.value).splitlines()) == 1
    with Checkpointer(tmp_path, keep=9) as checkpointer:
        restored = checkpointer.restore(shapes_of(state(1)))
        assert restored is not None and restored[1] == {"at": 1}
        jax.tree.map(np.testing.assert_array_equal, restored[0], state(1))
        checkpointer.save(state(2), {"at": 2})  # there is room again
        checkpointer.wait()
        restored = checkpointer.restore(shapes_of(state(2)))
        assert restored is not None and int(restored[0].step) == 2
    assert not list((tmp_path / "checkpoints").glob("*tmp*"))


@pytest.mark.parametrize("where", ["file", "file/below", "forbidden"])
def test_a_workdir_that_cannot_be_written_is_one_line_before_anything_is_compiled(
    tmp_path, where, monkeypatch
):
    """F6: a file, a path below a file, and one where the system forbids writing."""
    (tmp_path / "file").write_text("")
    # /proc forbids it even to root, as whom tests may run.
    workdir = Path("/proc/self") if where == "forbidden" else tmp_path / where
    monkeypatch.setattr("ldm_jax.training.loop.lower_step", None)
    with pytest.raises(OSError, match="workdir must be a directory that this") as error:
        run(workdir)
    assert len(str(error.value).splitlines()) == 1


def test_what_ends_a_run_has_its_own_exit_code(monkeypatch, capsys):
    """F12, F6: 3 for a run that diverged, 2 for what the user can mend."""
    from ldm_jax.training.monitoring.divergence import Diverged

    for error, code in ((Diverged("in step 7"), 3), (OSError("disk full"), 2)):

        def fail(args, overrides, error=error):
            raise error

        monkeypatch.setattr("ldm_jax.cli.train._run", fail)
        assert cli.main(["train", "--config=c", "--workdir=w"]) == code
        assert capsys.readouterr().err.strip() == f"ldm-jax train: {error}"


def child(program, *arguments, **env):
    """Starts a Python program in the root of the project."""
    return subprocess.Popen(
        [sys.executable, "-u", "-c", program, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def lines_of(process):
    """Yields what a process prints, line by line."""
    assert process.stdout is not None
    yield from process.stdout


def kill_at_line(process, part):
    """Kills a process as soon as it has printed a line with `part`."""
    for line in lines_of(process):
        if part in line:
            process.kill()
            return process.wait()
    raise AssertionError(f"{part!r} was never printed")


SAVES = """
import sys
from ldm_jax.training.checkpoints.checkpointer import Checkpointer
from tests.training.test_faults import shapes_of, state
with Checkpointer(sys.argv[1], keep=2) as checkpointer:
    restored = checkpointer.restore(shapes_of(state(0, 16)))
    first = 0 if restored is None else int(restored[0].step)
    for step in range(first + 1, first + 50):
        print("saves", step, flush=True)
        checkpointer.save(state(step, 16), {"at": step})
        checkpointer.wait()
        print("saved", step, flush=True)
"""


@pytest.mark.slow
def test_twenty_kills_in_saves_lose_nothing_that_was_saved(tmp_path):
    """F1: at random moments of a save, of the move into place and of the deletion."""
    rng, saved = random.Random(0), 0
    for _ in range(20):
        process = child(SAVES, tmp_path, JAX_PLATFORMS="cpu")
        begin = None
        for line in lines_of(process):
            word, step = line.split()[:2] if line.startswith("save") else ("", 0)
            if word == "saved":
                saved = max(saved, int(step))
            elif word == "saves" and begin is None:
                begin = time.monotonic() + rng.uniform(0, 0.6)
            if begin is not None and time.monotonic() > begin:
                process.kill()
        process.wait()
        with Checkpointer(tmp_path, keep=2) as checkpointer:
            result = checkpointer.restore(shapes_of(state(0, 16)))
            assert result is not None or saved == 0
            if result is not None:
                restored, data = result
                step = data["at"]
                assert step >= saved
                jax.tree.map(np.testing.assert_array_equal, restored, state(step, 16))
    assert not list((tmp_path / "checkpoints").glob("*tmp*"))
    assert not (tmp_path / "damaged").exists()


RUNS = """
import sys
from tests.kills import kill_at_operation
from tests.training.test_loop import run
workdir, number, checkpoint_every = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
kill_at_operation(number, workdir + "/checkpoints/")
run(workdir, checkpoint_every=checkpoint_every, keep=1)
"""


def ends_as_if_nothing_had_happened(workdir, whole, **changes):
    """Compares the finished run with one that nothing disturbed."""
    states = [run(path, **changes) for path in (workdir, whole)]
    jax.tree.map(np.testing.assert_array_equal, *states)
    rows = [(path / "metrics.jsonl").read_text() for path in (workdir, whole)]
    assert rows[0] == rows[1]
    files = [
        {p.name for p in path.rglob("*") if p.is_dir()} for path in (workdir, whole)
    ]
    assert files[0] == files[1]


@pytest.mark.slow
def test_killed_at_init_in_compilation_and_when_it_resumes_it_ends_with_the_same_bits(
    tmp_path,
):
    """F1: identity with a run that nothing disturbed."""
    killed = tmp_path / "killed"
    for line in ("initializing the parameters", "compiling the step"):
        assert kill_at_line(child(RUNS, killed, 0, 8), line) == -signal.SIGKILL
    with pytest.raises(OSError):
        run(killed, fail_at(10), keep=1)
    assert kill_at_line(child(RUNS, killed, 0, 8), "resumes at step 8") == -9
    ends_as_if_nothing_had_happened(killed, tmp_path / "whole", keep=1)


@pytest.mark.slow
def test_killed_at_twenty_places_of_restoring_saving_and_deleting_it_ends_with_the_same(
    tmp_path,
):
    """F1: every sixth operation on files: 10 of a restore, 43 of a save (the last moves
    it into place), 40 of the deletion of the one before, which runs during a save.
    """
    killed, options = tmp_path / "killed", dict(checkpoint_every=1, keep=1)
    with pytest.raises(OSError):
        run(killed, fail_at(2), **options)
    for number in range(1, 121, 6):
        names = [path.name for path in (killed / "checkpoints").iterdir()]
        process = child(RUNS, killed, number, 1)
        output, _ = process.communicate(timeout=240)
        assert process.returncode == -signal.SIGKILL, output
        if number > 10:  # it came to its first step, from the last that was whole
            newest = max(int(name) for name in names if name.isdigit())
            assert f"resumes at step {newest} of" in output
    ends_as_if_nothing_had_happened(killed, tmp_path / "whole", **options)


HANGS = """
import sys, time
from tests.training.test_loop import run
def before(step):
    if step == 12:
        time.sleep(600)
run(sys.argv[1], before, step_timeout=5.0)
"""


@pytest.mark.slow
def test_a_hanging_step_ends_the_run_which_then_resumes(tmp_path):
    """F17: a host that waits for its batch forever."""
    process = child(HANGS, tmp_path)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == EXIT_HANGS
    assert 'the phase "data" of step 13 did not end within 5 s' in output
    assert "in before" in output  # the stack
    assert int(run(tmp_path).step) == 24


PROCESS = """
import json, os, signal, sys, time
from ldm_jax.parallel.hosts import initialize_hosts
initialize_hosts()
import jax
from ldm_jax.parallel import sharding
from tests.training.test_loop import run
spec = json.loads(sys.argv[2])
who, fault, at, slow = (spec.pop(name) for name in ("who", "fault", "at", "slow"))
def before(step):
    if jax.process_index() != who:
        return
    time.sleep(slow)
    if step != at:
        return
    if fault == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "stops":
        open(sys.argv[1] + ".signalled", "w").close()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(2.0)
        os.kill(os.getpid(), signal.SIGTERM)
    if fault == "hangs":
        time.sleep(600)
    if fault == "fails":
        raise OSError("record 7 cannot be read")
run(sys.argv[1], before, mesh=sharding.make_mesh(2, 2, 1), report_every=4, **spec)
"""


def two_processes(workdir, fault="", at=-1, who=1, slow=0.0, **fields):
    """Starts the two processes of a run; `fault` comes to one before step `at`."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port = listener.getsockname()[1]
    env = dict(
        JAX_PLATFORMS="cpu",
        XLA_FLAGS="--xla_force_host_platform_device_count=2",
        LDM_JAX_COORDINATOR=f"localhost:{port}",
        LDM_JAX_NUM_PROCESSES="2",
        LDM_JAX_HEARTBEAT_SECONDS="10",
    )
    spec = json.dumps(dict(fault=fault, at=at, who=who, slow=slow, **fields))
    return [
        child(PROCESS, workdir, spec, **env, LDM_JAX_PROCESS_ID=str(index))
        for index in (0, 1)
    ]


def ends(process, within):
    """Waits for a process; returns its exit code and its output."""
    begin = time.monotonic()
    output, _ = process.communicate(timeout=240)
    seconds = time.monotonic() - begin
    print(f"ended with {process.returncode} after {seconds:.1f} s")
    assert seconds < within
    return process.returncode, output


def goes_on_with_two_processes(workdir):
    """Identity: two processes that nothing disturbed, to the bit."""
    whole = workdir / "whole"
    for path in (workdir, whole):
        for process in two_processes(path):
            code, output = ends(process, 240)
            assert code == 0, output
    rows, expected = (read_rows(path / "metrics.jsonl") for path in (workdir, whole))
    assert [row["step"] for row in rows] == [4, 8, 12, 16, 20, 24]
    assert [row["loss"] for row in rows] == [row["loss"] for row in expected]
    states = [load_params(path) for path in (workdir, whole)]
    jax.tree.map(np.testing.assert_array_equal, *states)


@pytest.mark.slow
def test_a_slow_host_is_named_and_a_lost_one_ends_the_run_which_then_resumes(tmp_path):
    """F18, F3: process 1 is 0.5 s late in every step and killed before step 19."""
    first, second = two_processes(tmp_path, "killed", at=19, slow=0.5)
    assert second.wait(240) == -signal.SIGKILL
    code, output = ends(first, 15)  # the heartbeat and 5 s
    assert code != 0
    assert "process 1 waits" in output and "process 0 waits" not in output
    goes_on_with_two_processes(tmp_path)


@pytest.mark.slow
def test_the_loss_of_the_first_host_ends_the_run_which_then_resumes(tmp_path):
    """F3: process 0, whom the others ask who is there."""
    first, second = two_processes(tmp_path, "killed", at=11, who=0)
    assert first.wait(240) == -signal.SIGKILL
    assert ends(second, 15)[0] != 0
    goes_on_with_two_processes(tmp_path)


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes_stops_both_at_one_step(tmp_path):
    """F2: twice, as a cluster that is in a hurry does."""
    for process in two_processes(tmp_path, "stops", at=11):
        code, output = ends(process, 60)
        assert code == 0, output
    assert time.time() - Path(f"{tmp_path}.signalled").stat().st_mtime < 30
    (step,) = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()} - {8}
    assert 11 <= step < 24
    goes_on_with_two_processes(tmp_path)


@pytest.mark.slow
def test_a_hanging_host_ends_all_and_the_run_resumes(tmp_path):
    """F17: process 1 before step 11; process 0 waits for it in that step."""
    processes = two_processes(tmp_path, "hangs", at=11, step_timeout=5.0)
    for process in processes:
        code, output = ends(process, 60)
        assert code != 0
        assert "did not end within 5 s" in output or "error" in output.lower()
    goes_on_with_two_processes(tmp_path)


@pytest.mark.slow
def test_an_error_of_one_process_ends_the_others(tmp_path):
    """A record that only one of them reads is damaged."""
    first, second = two_processes(tmp_path, "fails", at=11)
    code, output = ends(second, 240)
    assert code == 1
    assert "record 7 cannot be read" in output and "process 1 failed" in output
    assert ends(first, 15)[0] != 0  # the heartbeat and 5 s
    assert (tmp_path / "checkpoints" / "8").exists()
