# SPDX-License-Identifier: Apache-2.0
"""The output of `ldm-jax train` before and after a run, and of a dry run."""

import sys

import pytest

from ldm_jax import cli

CONFIG = "quickstart:stage=first_stage"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return f"--config.images.data_dir={tmp_path_factory.mktemp('data')}"


def test_a_dry_run_shows_settings_and_summary_and_writes_nothing(
    data, tmp_path, capsys
):
    workdir = tmp_path / "run"
    argv = ["train", f"--config={CONFIG}", f"--workdir={workdir}", data, "--dry-run"]
    assert cli.main([*argv, "--config.train.num_steps=7"]) == 0
    page = capsys.readouterr().out
    assert "config.train.num_steps = 7" in page
    assert "1,442 images of digits (355 more are held out), 10 classes" in page
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.accumulate=7", "accumulate must divide the batch: got 7 for a batch"),
        ("train.ema_of=('unet',)", "ema_of must name networks of this task"),
        ("train.best=sharpness", "train.best must be a scalar of the evaluation: got"),
        ("train.init_from=nowhere", "nowhere"),
        ("train.wandb=digits", "needs the package wandb"),
        ("train.profile_steps=(900000,900001)", "must be steps of the run"),
        ("train.keep_every=7", "must be a multiple of train.checkpoint_every"),
        ("optimizer.schedule.warmup_steps=-5", "warmup_steps must be 0 or more"),
        ("optimizer.schedule.warmup_steps=10000000000", "and below 2^31: got 1000"),
    ],
)
def test_a_dry_run_refuses_what_training_would(
    data, setting, message, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "wandb", None)  # not installed
    argv = ["train", f"--config={CONFIG}", data, "--dry-run", f"--config.{setting}"]
    assert cli.main(argv) == 2
    assert message in capsys.readouterr().err


def test_only_a_dry_run_needs_no_directory(data, capsys):
    assert cli.main(["train", f"--config={CONFIG}", data]) == 2
    assert "needs --workdir DIR" in capsys.readouterr().err
    assert cli.main(["train", f"--config={CONFIG}", data, "--dry-run"]) == 0


def test_a_run_ends_with_its_figures_and_the_next_commands(data, tmp_path, capsys):
    workdir = tmp_path / "run"
    small = ["--config.train.num_steps=2", "--config.autoencoder.channels=32"]
    small += ["--config.held_out=test[:32]"]
    argv = ["train", f"--config={CONFIG}", f"--workdir={workdir}", data, *small]
    assert cli.main(argv) == 0
    page = capsys.readouterr().out
    assert page.index("parameters") < page.index("initializing the parameters")
    last = page[page.index("evaluation") :]
    assert "psnr" in last
    reconstruct, latents = last.splitlines()[-2:]
    assert latents.startswith(" " * 15 + f"ldm-jax latents --model {workdir}")
    assert reconstruct.index("ldm-jax") == latents.index("ldm-jax")
