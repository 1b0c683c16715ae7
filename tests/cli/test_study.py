# SPDX-License-Identifier: Apache-2.0
"""Output and errors of `ldm-jax study`."""

import pytest

from ldm_jax import cli
from ldm_jax.study import engine

FILE = """
from ldm_jax.study import Budget
from tests.study.conftest import *

def get_study(arg=""):
    photos, _, flops = arg.partition(";")
    denoiser = make_denoiser()
    return Study(
        arms={"f=1": Arm(denoiser), "f=2": Arm(make_denoiser(), make_stage())},
        budget=Budget(flops=float(flops or 1e10)),
        images=dict(dataset=photos, split="train"),
        image_size=SIDE,
        evaluate_at=2,
        metrics=("kid",),
        feature_network="random",
    )
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "user.py"
    path.write_text(FILE)
    return f"--config={path}"


def test_the_dry_run_lists_the_stages_and_writes_nothing(config, tmp_path, capsys):
    out = tmp_path / "out"
    argv = ["study", f"{config}:./photos", f"--out={out}", "--dry-run"]
    assert cli.main(argv) == 0
    text = capsys.readouterr().out
    assert "budget of every arm: 1e+10 FLOPs" in text
    assert "denoiser/f=2/seed0" in text and not out.exists()
    assert cli.main([*argv, "--only=f=1"]) == 0
    assert "f=2" not in capsys.readouterr().out


def test_the_snakefile_has_every_stage(config, tmp_path, capsys):
    path = tmp_path / "Snakefile"
    argv = ["study", f"{config}:./photos", f"--out={tmp_path / 'out'}"]
    assert cli.main([*argv, f"--snakefile={path}"]) == 0
    assert "--run=denoiser/f=2/seed0" in path.read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "a study needs --config"),
        (["--report-only"], "is not a directory of a study"),
        (["--config=study_toy", "--only=f=3"], "there is no arm f=3; one of: f=1"),
        (["--config=small"], "must have a function get_study: got none"),
    ],
)
def test_bad_input_is_one_line(flags, message, tmp_path, capsys):
    assert cli.main(["study", f"--out={tmp_path / 'out'}", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_budget_below_a_step_is_one_line(config, tmp_path, capsys):
    argv = ["study", f"{config}:./photos;5", f"--out={tmp_path / 'out'}", "--dry-run"]
    assert cli.main(argv) == 2
    assert "f=1: the budget must pay for a step" in capsys.readouterr().err


def test_one_stage_is_run_by_name(config, tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(engine, "run_one", lambda study, out, name: ran.append(name))
    argv = ["study", f"{config}:./photos", f"--out={tmp_path}", "--run=reference"]
    assert cli.main(argv) == 0 and ran == ["reference"]
