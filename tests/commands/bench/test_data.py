# SPDX-License-Identifier: Apache-2.0
"""The benchmark of latents runs and prints its figures."""

import re
import subprocess
import sys

import pytest

from ldm_jax.cli import main


def test_the_benchmark_prints_rates(capsys):
    sizes = ["--records=200", "--latent-size=4", "--batch-size=16", "--mirror"]
    assert main(["bench", "data", *sizes, "--needed=1"]) == 0
    printed = capsys.readouterr().out
    for word in (
        "write",
        "read records",
        "read batches",
        "records/s",
        "MiB/s",
        "needs 1",
        "MiB after a tenth",
    ):
        assert word in printed


@pytest.mark.slow
def test_memory_does_not_grow_with_the_set():
    """A million records: reading nine tenths of them more takes no more memory."""
    program = "from ldm_jax.cli import main; main(['bench', 'data', *%r])"
    sizes = ["--records=1000000", "--latent-size=4", "--batch-size=256"]
    run = subprocess.run(
        [sys.executable, "-c", program % sizes], capture_output=True, text=True
    )
    match = re.search(r"process (\d+) MiB after a tenth .* (\d+) MiB", run.stdout)
    assert match, run.stderr
    tenth, whole = map(int, match.groups())
    assert whole - tenth < 32  # what an allocator keeps
