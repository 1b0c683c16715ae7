# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the data room runs and prints what it says."""

from ldm_jax.bench.data import main


def test_the_benchmark_prints_rates(capsys):
    sizes = ["--records=200", "--latent_size=4", "--batch_size=16", "--mirror"]
    assert main([*sizes, "--needed=1"]) == 0
    printed = capsys.readouterr().out
    for word in (
        "write",
        "read records",
        "read batches",
        "records/s",
        "MiB/s",
        "needs 1",
    ):
        assert word in printed
