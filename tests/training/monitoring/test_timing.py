# SPDX-License-Identifier: Apache-2.0
"""The rows of `timing.jsonl`."""

import pytest

from ldm_jax.training.monitoring.goodput import Ledger
from ldm_jax.training.monitoring.metric_rows import read_rows
from ldm_jax.training.monitoring.timing import Timing


def test_the_goodput_of_several_processes_has_all_phases(tmp_path, monkeypatch):
    """Rows name how long each process waited for data; they are read as rows."""
    module = "ldm_jax.training.monitoring.timing"
    monkeypatch.setattr(f"{module}.gathered", lambda value: [value, 2 * value])
    timing = Timing(tmp_path, batch_size=2, ledger=Ledger(), utilization=None)
    timing.begin(0)
    for step in (4, 8, 12):
        timing.add(step, ())
    assert timing.has_begun and timing.end()
    path = tmp_path / "timing.jsonl"
    rows = read_rows(path, numbers=("time",))
    assert len(rows) == len(path.read_text().splitlines())
    waits = [row["data_seconds_per_step"] for row in rows if "seconds_per_step" in row]
    assert waits and all(list(wait) == ["0", "1"] for wait in waits)
    assert sum(rows[-1]["goodput"].values()) == pytest.approx(1)
    assert rows[-1]["goodput"]["down"] < 1


def test_a_process_that_does_not_train_writes_no_rows(tmp_path):
    timing = Timing(tmp_path, batch_size=2, ledger=Ledger(), utilization=None)
    assert timing.add(4, ()) == ({}, None) and timing.end() == {}
    assert not timing.has_begun and list(tmp_path.iterdir()) == []
