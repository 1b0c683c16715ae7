# SPDX-License-Identifier: Apache-2.0
"""The benchmark of metrics runs and prints its figures."""

import pytest

from ldm_jax.cli import main


@pytest.mark.slow
def test_the_benchmark_prints_rates_and_the_protocols_cost(capsys):
    sizes = ["--images=8", "--size=32", "--batch-size=4", "--features=64"]
    assert main(["bench", "metrics", *sizes, "--no-torch"]) == 0
    printed = capsys.readouterr().out
    for word in ("8 images:", "s of CPU an image", "KID       of 64", "50000 images"):
        assert word in printed
