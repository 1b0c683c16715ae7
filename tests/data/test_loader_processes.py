# SPDX-License-Identifier: Apache-2.0
"""Two processes make one global batch, whichever axis of the mesh spans them."""

import json
import pathlib
import socket
import subprocess
import sys

import pytest

from ldm_jax.data.order import shuffled_rows

PROGRAM = """
import json, os, pathlib, sys
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import jax
import numpy as np
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(sys.argv[2], 2, int(sys.argv[1]))
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ldm_jax.data.loader import make_batches

class Numbers:
    fingerprint = "numbers"
    __len__ = lambda self: 20
    __getitems__ = lambda self, indices: [{"x": np.int32(i)} for i in indices]

devices = np.array(jax.devices()).reshape(2, 2)
if sys.argv[3] == "tensor":
    devices = devices.T
mesh = Mesh(devices, ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
rows = NamedSharding(mesh, PartitionSpec("data"))
batch = make_batches(Numbers(), lambda r, rng: r, 8, rows, seed=1)(3)
gather = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))
pathlib.Path(sys.argv[4]).write_text(json.dumps(gather(batch["x"]).tolist()))
jax.distributed.shutdown()
# gloo's threads were once seen to hang the interpreter's own end.
os._exit(0)
"""


@pytest.mark.parametrize("across", ["data", "tensor"])
def test_the_batch_of_two_processes_is_that_of_one(across, tmp_path):
    """With "tensor" across processes, both hold all rows; the batch must not halve."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    # Read from files: gloo also writes lines to the standard output.
    files = [tmp_path / f"{index}.json" for index in range(2)]
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(index), address, across, str(file)],
            cwd=pathlib.Path(__file__).parents[2],
        )
        for index, file in enumerate(files)
    ]
    assert [run.wait(timeout=300) for run in runs] == [0, 0]
    expected = [row.index for row in shuffled_rows(1, 20, 24, 32)]
    assert [json.loads(file.read_text()) for file in files] == [expected, expected]
