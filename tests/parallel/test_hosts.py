# SPDX-License-Identifier: Apache-2.0
"""Many processes are one run: same losses, same checkpoint, stopped together."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from ldm_jax.parallel.hosts import agreed, in_cluster, initialize_hosts, is_main_process
from ldm_jax.training.checkpoints.params import load_params
from ldm_jax.training.monitoring.metric_rows import read_rows

ROOT = Path(__file__).parents[2]

CHILD = """
import json, os, signal, sys, time
from ldm_jax.parallel.hosts import initialize_hosts
initialize_hosts(heartbeat_seconds=10)
from ldm_jax.parallel import sharding
from tests.training.test_loop import run
spec = json.loads(sys.argv[1])
delay = spec.pop("delay", 0)
mesh = sharding.make_mesh(*spec.pop("sizes"))
run(spec.pop("workdir"), lambda step: time.sleep(delay), mesh=mesh, **spec)
"""


def start(processes, **spec):
    """Starts the toy run on 4 devices in all."""
    command = [
        *(sys.executable, "launch/local_multiprocess.py", f"--processes={processes}"),
        *(f"--devices-per-process={4 // processes}", "--"),
        *(sys.executable, "-c", CHILD, json.dumps(spec)),
    ]
    env = dict(os.environ, XLA_FLAGS="", PYTHONPATH=str(ROOT))
    return subprocess.Popen(command, cwd=ROOT, env=env)


def losses(workdir):
    return [row["loss"] for row in read_rows(workdir / "metrics.jsonl")]


def test_a_single_process_needs_no_initialization():
    initialize_hosts()
    assert is_main_process() and agreed(True) and not agreed(False)


def test_half_a_description_of_the_processes_is_refused():
    with pytest.raises(ValueError, match="set all of LDM_JAX_COORDINATOR"):
        initialize_hosts(coordinator="localhost:1234")


def test_a_process_beyond_the_number_of_processes_is_refused():
    with pytest.raises(ValueError, match=r"process_id must be in \[0, 2\)"):
        initialize_hosts("localhost:1234", num_processes=2, process_id=2)


@pytest.mark.parametrize(
    ("env", "is_cluster"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "1"}, False),
        ({"SLURM_NTASKS": "4"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_PROCESS_ADDRESSES": "a:1,b:1"}, True),
        ({"MEGASCALE_COORDINATOR_ADDRESS": "a"}, True),
    ],
)
def test_a_cluster_is_known_by_its_variables(tmp_path, env, is_cluster):
    assert in_cluster(env, devices=str(tmp_path)) == is_cluster


def test_a_tpu_vm_gets_the_other_hosts_from_jax(tmp_path, monkeypatch):
    """As JAX's own detection: chips, libtpu, and the metadata server not forbidden."""
    monkeypatch.setattr("ldm_jax.parallel.hosts.find_spec", lambda name: name)
    assert not in_cluster({}, devices=str(tmp_path))
    (tmp_path / "vfio").mkdir()
    (tmp_path / "vfio" / "0").touch()
    assert in_cluster({}, devices=str(tmp_path))
    for env in ({"TPU_SKIP_MDS_QUERY": "1"}, {"JAX_PLATFORMS": "cpu"}):
        assert not in_cluster(env, devices=str(tmp_path))
    assert not in_cluster({"TPU_WORKER_HOSTNAMES": "localhost"}, str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(4, 1, 1), (2, 2, 1), (1, 2, 2)])
def test_one_two_and_four_processes_are_the_same_run(tmp_path, sizes):
    """Identity: the mesh decides, not how its devices are spread over processes."""
    for processes in (1, 2, 4):
        workdir = tmp_path / str(processes)
        child = start(processes, workdir=str(workdir), sizes=sizes, report_every=1)
        assert child.wait(300) == 0
    for many in ("2", "4"):
        one, other = losses(tmp_path / "1"), losses(tmp_path / many)
        assert len(one) == len(other) == 24
        difference = np.abs(np.subtract(one, other)).max()
        print(f"mesh {sizes}, {many} processes: losses differ by {difference:.1e}")
        np.testing.assert_allclose(one, other, atol=1e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
            load_params(tmp_path / "1"),
            load_params(tmp_path / many),
        )


@pytest.mark.slow
def test_two_processes_stop_together_and_one_continues(tmp_path):
    """Identity: SIGTERM to both, the rest on one process; as one whole run."""
    spec = dict(sizes=(2, 2, 1), report_every=1)
    child = start(2, workdir=str(tmp_path / "a"), delay=1.0, **spec)
    while not losses(tmp_path / "a"):  # the step is compiled and has run
        assert child.poll() is None
        time.sleep(0.5)
    child.send_signal(signal.SIGTERM)
    assert child.wait(120) == 0
    assert 1 < len(losses(tmp_path / "a")) < 24
    for name in "ab":
        assert start(1, workdir=str(tmp_path / name), **spec).wait(300) == 0
    np.testing.assert_allclose(
        losses(tmp_path / "a"), losses(tmp_path / "b"), atol=1e-5
    )


@pytest.mark.slow
def test_a_run_resumes_with_any_number_of_processes(tmp_path):
    """F4: 1, then 4, then 2 of them, on another mesh each; as one whole run."""
    parts = [(1, 8, (4, 1, 1)), (4, 16, (2, 2, 1)), (2, 24, (1, 2, 2))]
    for processes, num_steps, sizes in parts:
        spec = dict(sizes=sizes, num_steps=num_steps, report_every=1)
        assert start(processes, workdir=str(tmp_path / "a"), **spec).wait(300) == 0
    spec = dict(sizes=(4, 1, 1), report_every=1)
    assert start(1, workdir=str(tmp_path / "b"), **spec).wait(300) == 0
    one, other = losses(tmp_path / "a"), losses(tmp_path / "b")
    print(f"losses differ by {np.abs(np.subtract(one, other)).max():.1e}")
    np.testing.assert_allclose(one, other, atol=1e-6)  # two roundings of float32
