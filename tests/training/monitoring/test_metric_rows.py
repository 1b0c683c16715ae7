# SPDX-License-Identifier: Apache-2.0
"""Rows of a run's files: damaged ones end no run, and nothing is lost."""

import math
import os

import pytest

from ldm_jax.files.errors import UnreadableFile
from ldm_jax.training.monitoring import metric_rows
from ldm_jax.training.monitoring.goodput import goodput
from ldm_jax.training.monitoring.metric_rows import (
    append_row,
    drop_rows,
    formatted,
    read_rows,
)
from ldm_jax.training.monitoring.page import write_report

# Lines that are not rows.
DAMAGED = {
    "cut": b'{"step": 2, "lo',
    "a list": b"[2]",
    "no step": b'{"loss": 2.0}',
    "a step in words": b'{"step": "two"}',
    "a list of values": b'{"step": 2, "loss": [1]}',
    "zeros": bytes(40),
    "another encoding": '{"step": 2, "ö": 1}'.encode("latin-1"),
    "nested": b'{"step": 2, "a": ' + b"[" * 10**5,
    "half a character": b'{"step": 2, "a": "\\ud800"}',
    "a huge number": b'{"step": ' + b"9" * 5000 + b"}",
}


@pytest.fixture(autouse=True)
def warnings(monkeypatch):
    """Lines that were reported as damaged."""
    warned = []
    monkeypatch.setattr(
        metric_rows, "_warn", lambda path, number: warned.append(number)
    )
    return warned


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_line_is_left_out_with_a_warning_and_stays(name, tmp_path, warnings):
    path = tmp_path / "metrics.jsonl"
    append_row(path, {"step": 1, "loss": 1.0})
    path.write_bytes(path.read_bytes() + DAMAGED[name] + b"\n")
    append_row(path, {"step": 3, "loss": 3.0})
    append_row(path, {"step": 4, "loss": 4.0})
    assert [row["step"] for row in read_rows(path)] == [1, 3, 4]
    assert warnings == [2]
    drop_rows(path, 3)
    assert [row["step"] for row in read_rows(path)] == [1, 3]
    assert DAMAGED[name] in path.read_bytes()
    write_report(tmp_path, "a run", {})
    assert "steps" in (tmp_path / "report.html").read_text()


def test_a_row_after_a_line_that_a_kill_cut_off_is_a_row(tmp_path, warnings):
    path = tmp_path / "timing.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2, "lo')
    assert read_rows(path) == [{"step": 1}] and warnings == []
    append_row(path, {"step": 3})
    assert read_rows(path) == [{"step": 1}, {"step": 3}]


def test_a_number_that_is_not_finite_is_none_and_shown_as_nan(tmp_path):
    append_row(tmp_path / "a", {"step": 1, "loss": math.inf, "fid": 0.123456})
    (row,) = read_rows(tmp_path / "a")
    assert row == {"step": 1, "loss": None, "fid": 0.123456}
    assert formatted(row["loss"]) == "nan" and formatted(row["fid"]) == "0.1235"


def test_what_is_no_file_is_refused_by_name(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(UnreadableFile, match=r"metrics\.jsonl is a FIFO"):
        read_rows(tmp_path / "metrics.jsonl")
    assert read_rows(tmp_path / "gone") == []


def test_rows_without_times_do_not_count_as_time():
    rows = [
        {"event": "start", "time": 0.0},
        {"event": "start", "step": 0, "time": 0.0},
        {"seconds": {"step": 5.0}, "time": 5.0},
        {"step": 1, "steps": 1, "seconds": {"step": 10.0, "other": 1.0}, "time": 10.0},
    ]
    assert goodput(rows)["step"] == 1.0
