# SPDX-License-Identifier: Apache-2.0
"""The rules that a study writes, run by Snakemake: the same table as by the command."""

import csv
import shutil
import subprocess
import sys

import pytest

from ldm_jax import cli
from tests.cli.test_study import FILE

# Columns that are measured with a clock.
TIMED = ("device-hours", "images/s")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("snakemake"), reason="needs snakemake")
def test_snakemake_makes_the_table_of_the_plain_command(photos, tmp_path, monkeypatch):
    """Identity: every figure but those of time."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "user.py").write_text(FILE.replace("evaluate_at=2,", SMALL))
    config = f"--config=user.py:{photos}"
    assert cli.main(["study", config, "--out=plain"]) == 0
    assert cli.main(["study", config, "--out=rules", "--snakefile=Snakefile"]) == 0
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "ldm-jax"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m ldm_jax.cli "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=":")
    subprocess.run(["snakemake", "--cores", "2"], check=True)
    tables = [read_table(tmp_path / out / "table.csv") for out in ("plain", "rules")]
    assert tables[0] == tables[1] and len(tables[0]) > 10


SMALL = "evaluate_at=2, num_steps=2, sampling_steps=(1,), num_samples=8, batch_size=8,"


def read_table(path):
    """Reads {head: cells} of a table, without the columns of time."""
    with open(path) as file:
        heads, *rows = csv.reader(file)
    columns = dict(zip(heads, zip(*rows, strict=True), strict=True))
    return {n: cells for n, cells in columns.items() if not n.startswith(TIMED)}
