# SPDX-License-Identifier: Apache-2.0
"""A file of figures: runs are added, and a ratio that became worse is reported."""

import json

import pytest

from ldm_jax.cli import main
from ldm_jax.commands.bench.history import History
from ldm_jax.files.errors import UnreadableFile

COMMAND = ("train", "repeats=3")


def add(path, command=COMMAND, **figures):
    return History(path).add(
        command, {name.replace("_", " "): x for name, x in figures.items()}
    )


def test_a_ratio_that_grew_by_more_than_a_tenth_is_reported(tmp_path):
    path = tmp_path / "figures.jsonl"
    assert add(path, ldm_jax=1.0, ratio_of_torch=0.80) == []
    assert add(path, ldm_jax=9.0, ratio_of_torch=0.87) == []
    (line,) = add(path, ldm_jax=1.0, ratio_of_torch=0.97)
    assert "ratio of torch is 0.97, 11% above the 0.87" in line
    assert len(path.read_text().splitlines()) == 3


@pytest.mark.parametrize(
    "changed",
    [{"device": "TPU v5e"}, {"cores": 999}, {"versions": {"torch": "0.1"}}],
)
def test_runs_of_another_machine_or_peer_are_not_compared(tmp_path, changed):
    path = tmp_path / "figures.jsonl"
    add(path, ratio_of_torch=0.5)
    path.write_text(json.dumps(json.loads(path.read_text()) | changed) + "\n")
    assert add(path, ratio_of_torch=5.0) == []
    assert add(path, ("sampler",), ratio_of_torch=9.0) == []


@pytest.mark.parametrize("line", ['{"command": "train"}', "[1]", "banana"])
def test_a_file_of_something_else_is_refused_before_anything_is_measured(
    tmp_path, line, capsys
):
    path = tmp_path / "notes.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(UnreadableFile, match=r"notes\.jsonl, line 1"):
        History(path)
    assert main(["bench", "data", f"--json={path}"]) == 2
    assert "notes.jsonl, line 1" in capsys.readouterr().err
    assert path.read_text() == line + "\n"


def test_a_folder_that_is_a_file_is_refused_before_anything_is_measured(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(OSError, match="Not a directory"):
        History(tmp_path / "a" / "figures.jsonl")


def test_the_figures_of_a_benchmark_are_a_line_of_the_file(tmp_path, capsys):
    path = tmp_path / "figures.jsonl"
    small = ["--records=64", "--latent-size=4", "--batch-size=16"]
    assert main(["bench", "data", *small, f"--json={path}"]) == 0
    row = json.loads(path.read_text())
    printed = capsys.readouterr().out
    assert f"read batches  {row['figures']['records/s']:8.0f} records/s" in printed
    assert "records=64" in row["command"] and row["versions"]["jax"]
