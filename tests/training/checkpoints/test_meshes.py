# SPDX-License-Identifier: Apache-2.0
"""Runs on a few devices of one machine, split in every way, save and resume."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# Many small arrays, each split: their checksums must not wait for each other.
CHILD = """
import sys
import jax, jax.numpy as jnp
from ldm_jax.parallel.sharding import make_mesh
from ldm_jax.training.loop import train
from ldm_jax.types import Task
from tests.training.toy import toy_run

def init(key, batch):
    keys = jax.random.split(key, 150)
    layers = {f"layer_{n}": {"mlp": {"in": {"kernel": jax.random.normal(k, (8, 16))}}}
              for n, k in enumerate(keys)}
    return {"unet": layers}, {}

def loss(params, collections, batch, key, step):
    sums = [jnp.mean(x**2) for x in jax.tree.leaves(params)]
    return jnp.mean(batch["x"]**2) * sum(sums), ({}, {})

workdir, *sizes = sys.argv[1], *map(int, sys.argv[2:])
for num_steps in (2, 3):
    run = toy_run(num_steps, task=Task(init, loss, {}), mesh=make_mesh(*sizes),
                  checkpoint_every=1, report_every=1)
    print("ended at", int(train(run, workdir).step))
"""


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param((1, 2, 1), id="fsdp", marks=pytest.mark.slow),
        pytest.param((1, 2, 2), id="and tensor"),
    ],
)
def test_a_run_split_over_a_few_devices_saves_and_resumes(tmp_path, sizes):
    count = sizes[0] * sizes[1] * sizes[2]
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={count}"
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path), *map(str, sizes)],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    for line in ("ended at 2", "resumes at step 2 of 3", "ended at 3"):
        assert line in child.stdout, child.stdout + child.stderr
