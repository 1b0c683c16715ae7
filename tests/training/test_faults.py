# SPDX-License-Identifier: Apache-2.0
"""Faults injected from outside: disks that fill, hosts that hang, lag or are lost.

Those of the checkpoint's files are in test_checkpoint, those of the settings and data
in test_settings and test_loop.
"""

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
from ldm_jax.training.checkpoint import Checkpointer
from ldm_jax.training.rows import read_rows
from ldm_jax.training.sharding import make_mesh, replicated
from ldm_jax.training.state import TrainState
from ldm_jax.training.watchdog import EXIT_HANGS
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


def test_a_full_disk_is_told_and_costs_no_earlier_checkpoint(tmp_path):
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
        found = checkpointer.restore(shapes_of(state(1)))
        assert found is not None and found[1] == {"at": 1}
        jax.tree.map(np.testing.assert_array_equal, found[0], state(1))
        checkpointer.save(state(2), {"at": 2})  # there is room again
        checkpointer.wait()
        found = checkpointer.restore(shapes_of(state(2)))
        assert found is not None and int(found[0].step) == 2
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
    from ldm_jax.training.divergence import Diverged

    for error, code in ((Diverged("in step 7"), 3), (OSError("disk full"), 2)):

        def fail(args, overrides, error=error):
            raise error

        monkeypatch.setattr("ldm_jax.cli.train._train", fail)
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
from ldm_jax.training.checkpoint import Checkpointer
from tests.training.test_faults import shapes_of, state
with Checkpointer(sys.argv[1], keep=2) as checkpointer:
    found = checkpointer.restore(shapes_of(state(0, 16)))
    first = 0 if found is None else int(found[0].step)
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
            found = checkpointer.restore(shapes_of(state(0, 16)))
            assert found is not None or saved == 0
            if found is not None:
                restored, data = found
                step = data["at"]
                assert step >= saved
                jax.tree.map(np.testing.assert_array_equal, restored, state(step, 16))
    assert not list((tmp_path / "checkpoints").glob("*tmp*"))
    assert not (tmp_path / "damaged").exists()


RUNS = """
import sys
from tests.training.test_loop import run
run(sys.argv[1])
"""


@pytest.mark.slow
def test_killed_at_init_in_compilation_and_when_it_resumes_it_ends_with_the_same_bits(
    tmp_path,
):
    """F1: identity with a run that nothing disturbed."""
    for line in ("makes the parameters", "compiles the step"):
        assert kill_at_line(child(RUNS, tmp_path / "killed"), line) == -signal.SIGKILL
    with pytest.raises(OSError):
        run(tmp_path / "killed", fail_at(10))
    assert kill_at_line(child(RUNS, tmp_path / "killed"), "resumes at step 8") == -9
    states = [run(tmp_path / name) for name in ("killed", "whole")]
    jax.tree.map(np.testing.assert_array_equal, *states)
    rows = [
        (tmp_path / name / "metrics.jsonl").read_text() for name in ("killed", "whole")
    ]
    assert rows[0] == rows[1]


HANGS = """
import sys, time
from tests.training.test_loop import run
def before(step):
    if step == 12:
        time.sleep(600)
run(sys.argv[1], before, step_timeout=5.0)
"""


@pytest.mark.slow
def test_a_step_that_hangs_ends_the_run_which_then_goes_on(tmp_path):
    """F17: a host that waits for its batch forever."""
    process = child(HANGS, tmp_path)
    said, _ = process.communicate(timeout=240)
    assert process.returncode == EXIT_HANGS
    assert 'the phase "data" of step 13 did not end within 5 s' in said
    assert "in before" in said  # the stack
    assert int(run(tmp_path).step) == 24


PROCESS = """
import os, signal, sys, time
from ldm_jax.training.hosts import initialize_hosts
initialize_hosts()
import jax
from ldm_jax.training import sharding
from tests.training.test_loop import run
kill_at, fail_at = int(sys.argv[2]), int(sys.argv[3])
def before(step):
    if jax.process_index() == 1:
        time.sleep(0.5 if kill_at > 0 else 0)
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if step == fail_at:
            raise OSError("record 7 cannot be read")
run(sys.argv[1], before, sharding.make_mesh(2, 2, 1), report_every=4)
"""


def two_processes(workdir, kill_at=-1, fail_at=-1):
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
    return [
        child(PROCESS, workdir, kill_at, fail_at, **env, LDM_JAX_PROCESS_ID=str(index))
        for index in (0, 1)
    ]


@pytest.mark.slow
def test_a_slow_host_is_named_a_lost_one_ends_the_others_and_the_run_goes_on(tmp_path):
    """F18, F3: process 1 is 0.5 s late in every step and killed before step 19."""
    first, second = two_processes(tmp_path, kill_at=19)
    assert second.wait(240) == -signal.SIGKILL
    begin = time.monotonic()
    said, _ = first.communicate(timeout=60)
    seconds = time.monotonic() - begin
    print(f"the survivor ended with {first.returncode} after {seconds:.1f} s")
    assert first.returncode != 0 and seconds < 15  # the heartbeat and 5 s
    assert "process 1 waits" in said and "process 0 waits" not in said
    for process in two_processes(tmp_path):
        process.communicate(timeout=240)
        assert process.returncode == 0
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [4, 8, 12, 16, 20, 24]
    run(
        tmp_path / "whole",
        mesh=make_mesh(2, 2, 1, devices=jax.devices()[:4]),
        report_every=4,
    )
    whole = read_rows(tmp_path / "whole" / "metrics.jsonl")
    losses = [[row["loss"] for row in each] for each in (rows, whole)]
    np.testing.assert_allclose(*losses, atol=1e-5)


@pytest.mark.slow
def test_an_error_of_one_process_ends_the_others(tmp_path):
    """A record that only one of them reads is damaged."""
    first, second = two_processes(tmp_path, fail_at=11)
    said, _ = second.communicate(timeout=240)
    begin = time.monotonic()
    assert second.returncode == 1
    assert "record 7 cannot be read" in said and "process 1 failed" in said
    first.communicate(timeout=60)
    seconds = time.monotonic() - begin
    print(f"the other ended with {first.returncode} after {seconds:.1f} s")
    assert first.returncode != 0 and seconds < 15  # the heartbeat and 5 s
    assert (tmp_path / "checkpoints" / "8").exists()
