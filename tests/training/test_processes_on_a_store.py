# SPDX-License-Identifier: Apache-2.0
"""Several processes train into an object store: killed, preempted, a slow store."""

import json
import re
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from etils import epath

from ldm_jax.files.stores.objects import sizes_in
from ldm_jax.training.monitoring.goodput import format_goodput, goodput
from ldm_jax.training.monitoring.metric_rows import read_rows
from tests.training.test_faults import child
from tests.training.test_loop import run

pytestmark = [pytest.mark.store, pytest.mark.slow]

PROCESS = """
import faulthandler, json, os, signal, sys, threading, time
def give_up():
    faulthandler.dump_traceback(all_threads=True)
    os._exit(75)
limit = threading.Timer(240, give_up)
limit.daemon = True
limit.start()
from ldm_jax.parallel.hosts import initialize_hosts
initialize_hosts()
import jax
from ldm_jax.files.stores import lease
from ldm_jax.parallel import sharding
from tests.training.test_loop import run
lease.LEASE_SECONDS = 10.0
lease.RENEW_SECONDS = 2.0
who, fault, at, mesh = json.loads(sys.argv[2])
def before(step):
    if fault == "SIGTERM":
        time.sleep(0.2)  # the processes need a moment to agree on a step
    if step == at and who in (jax.process_index(), "all"):
        os.kill(os.getpid(), getattr(signal, fault))
run(sys.argv[1], before, mesh=sharding.make_mesh(*mesh), report_every=4)
"""
# Of 4 devices: (data, fsdp, tensor).
MESH = (1, 2, 2)
COUNTS = [2, 4]
CHECKPOINT_EVERY = 8


def processes(url, count, who=-1, fault="", at=-1, mesh=MESH):
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
    spec = json.dumps([who, fault, at, mesh])
    return [
        child(PROCESS, url, spec, **env, LDM_JAX_PROCESS_ID=str(index))
        for index in range(count)
    ]


def codes(started):
    """Waits for processes; returns their exit codes, and what they printed.

    All are read at once: a process stands still while its output is not read.
    """
    with ThreadPoolExecutor(len(started)) as pool:
        printed = list(pool.map(lambda process: process.communicate()[0], started))
    return [process.returncode for process in started], "".join(printed)


def check_finished(url, count, tmp_path, mesh=MESH):
    """Resumes a run; its losses must be those of one process on a disk."""
    returned, output = codes(processes(url, count, mesh=mesh))
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


def timing(url):
    """Returns the rows of timing.jsonl, and the goodput, which the page must show."""
    rows = read_rows(f"{url}/timing.jsonl", numbers=("time",))
    lines = (epath.Path(url) / "timing.jsonl").read_text().splitlines()
    assert len(rows) == len(lines)
    shares = goodput(rows)
    assert sum(shares.values()) == pytest.approx(1)
    page = (epath.Path(url) / "report.html").read_text()
    assert "share of the time since the first start" in page
    print(format_goodput(shares))
    return rows, shares


def starts(rows):
    return [row["step"] for row in rows if row.get("event") == "start"]


@pytest.mark.parametrize("count", COUNTS)
def test_of_all_that_are_killed_one_at_a_time_the_run_resumes(
    bucket, store, count, tmp_path
):
    """The last first, and in the end the owner of the lease."""
    url = f"{bucket}/run"
    # Later and later: from step 11 to step 23.
    kills = [(who, 23 - 12 * who // (count - 1)) for who in reversed(range(count))]
    for who, at in kills:
        returned, output = codes(processes(url, count, who, "SIGKILL", at))
        assert returned[who] == -signal.SIGKILL, output
        assert all(returned), output
    check_finished(url, count, tmp_path)
    rows, shares = timing(url)
    first, *resumed = starts(rows)
    lost = [at - step for (_, at), step in zip(kills, resumed, strict=True)]
    print("lost steps:", lost, "requests:", len(store.requests))
    assert first == 0 and all(step % CHECKPOINT_EVERY == 0 for step in resumed)
    # At most what came since a checkpoint, and that checkpoint, if it was on its way.
    assert all(0 <= steps < 2 * CHECKPOINT_EVERY for steps in lost), lost
    # Rows since the last checkpoint were not copied: their time counts as "down".
    assert shares["down"] > 0


@pytest.mark.parametrize("count", COUNTS)
def test_all_that_are_preempted_save_at_one_step_and_resume(
    bucket, store, count, tmp_path
):
    url = f"{bucket}/run"
    returned, output = codes(processes(url, count, "all", "SIGTERM", 13))
    assert returned == [0] * count, output
    (stopped,) = re.findall(r"stopped and saved at step (\d+)", output)
    check_finished(url, count, tmp_path)
    rows, shares = timing(url)
    print("starts:", starts(rows), "requests:", len(store.requests))
    assert starts(rows) == [0, int(stopped)] and shares["redone"] == 0


def test_a_slow_store_costs_time_that_the_report_shows(bucket, store, tmp_path):
    """Every request for a checkpoint takes half a second longer; replicas write."""
    store.fault = lambda method, path: 0.5 if "checkpoints" in path else None
    check_finished(f"{bucket}/run", 2, tmp_path, mesh=(2, 2, 1))
    rows, shares = timing(f"{bucket}/run")
    print("requests:", len(store.requests))
    waited = sum(row.get("seconds", {}).get("checkpoint", 0) for row in rows)
    # The last checkpoint is waited for: its folder, its objects, its end.
    assert waited >= 3 * 0.5 and shares["checkpoint"] > 0
