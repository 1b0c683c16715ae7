# SPDX-License-Identifier: Apache-2.0
"""Several processes train into an object store: killed, preempted, a slow store."""

import json
import os
import signal
import socket

import numpy as np
import pytest

from ldm_jax.files.objects import sizes_in
from ldm_jax.training.monitoring.metric_rows import read_rows
from tests.training.test_faults import child
from tests.training.test_loop import run

pytestmark = [pytest.mark.store, pytest.mark.slow]

PROCESS = """
import json, os, signal, sys, time
from ldm_jax.parallel.hosts import initialize_hosts
initialize_hosts()
import jax
from ldm_jax.files import lease
from ldm_jax.parallel import sharding
from tests.training.test_loop import run
lease.LEASE_SECONDS = 10.0
lease.RENEW_SECONDS = 2.0
who, fault, at, mesh = json.loads(sys.argv[2])
def before(step):
    if step == at and who in (jax.process_index(), "all"):
        os.kill(os.getpid(), getattr(signal, fault))
run(sys.argv[1], before, mesh=sharding.make_mesh(*mesh), report_every=4)
"""
# Processes -> mesh (data, fsdp, tensor) of 4 devices.
MESHES = {2: (2, 2, 1), 4: (1, 2, 2)}


def processes(url, count, who=-1, fault="", at=-1):
    """Starts the processes of a run; the fault comes before step `at`."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port = listener.getsockname()[1]
    env = dict(
        JAX_PLATFORMS="cpu",
        XLA_FLAGS=f"--xla_force_host_platform_device_count={4 // count}",
        LDM_JAX_COORDINATOR=f"localhost:{port}",
        LDM_JAX_NUM_PROCESSES=str(count),
        LDM_JAX_HEARTBEAT_SECONDS="10",
    )
    spec = json.dumps([who, fault, at, MESHES[count]])
    return [
        child(PROCESS, url, spec, **env, LDM_JAX_PROCESS_ID=str(index))
        for index in range(count)
    ]


def codes(started):
    """Waits for processes; returns their exit codes, and what they printed."""
    ended = [(process.communicate(timeout=280)[0], process) for process in started]
    return [process.returncode for _, process in ended], "".join(t for t, _ in ended)


def check_finished(url, count, tmp_path):
    """Resumes a run; its losses must be those of one process on a disk."""
    returned, output = codes(processes(url, count))
    assert returned == [0] * count, output
    run(str(tmp_path / "whole"), report_every=4)
    rows, expected = (
        read_rows(f"{url}/metrics.jsonl"),
        read_rows(tmp_path / "whole" / "metrics.jsonl"),
    )
    assert [row["step"] for row in rows] == [4, 8, 12, 16, 20, 24]
    np.testing.assert_allclose(
        [row["loss"] for row in rows], [row["loss"] for row in expected], rtol=1e-5
    )
    assert not any(name.startswith("run.lock") for name in sizes_in(url))


@pytest.mark.parametrize("count", MESHES)
def test_one_that_is_killed_ends_all_which_then_resume(bucket, count, tmp_path):
    """The last of them, which is not the owner of the lease, and then the first."""
    for who, at in ((count - 1, 11), (0, 19)):
        returned, output = codes(processes(f"{bucket}/run", count, who, "SIGKILL", at))
        assert returned[who] == -signal.SIGKILL, output
        assert all(returned), output
    check_finished(f"{bucket}/run", count, tmp_path)


@pytest.mark.parametrize("count", MESHES)
def test_all_that_are_preempted_save_at_one_step_and_resume(bucket, count, tmp_path):
    returned, output = codes(processes(f"{bucket}/run", count, "all", "SIGTERM", 13))
    assert returned == [0] * count, output
    assert "stopped and saved at step" in output
    check_finished(f"{bucket}/run", count, tmp_path)


def test_a_slow_store_costs_time_that_the_report_shows(bucket, store, tmp_path):
    """Every request takes 0.1 s longer."""
    store.fault = lambda method, path: 0.1
    check_finished(f"{bucket}/run", 2, tmp_path)
    shares = read_rows(f"{bucket}/run/timing.jsonl", numbers=())
    assert shares, os.fspath(bucket)
