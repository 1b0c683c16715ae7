# SPDX-License-Identifier: Apache-2.0
"""The list of stages: shared where possible, and in order of dependency."""

import dataclasses

import pytest

from ldm_jax.study.budget import resolve_arms
from ldm_jax.study.config import Arm, Budget
from ldm_jax.study.stages import denoiser_config, latents_name, make_stages, select
from tests.study.conftest import finish, make_denoiser, make_stage


def test_arms_with_one_first_stage_share_it_and_its_latents(study):
    wide = make_denoiser()
    wide.unet.channels = 64
    arms = {"a": Arm(make_denoiser(), make_stage()), "b": Arm(wide, make_stage())}
    study = dataclasses.replace(study, arms=arms, seeds=(0, 1))
    resolved = resolve_arms(study)
    names = [stage.name for stage in make_stages(study, resolved, "out")]
    assert len(names) == len(set(names)) == 1 + 3 + 2 * 2 * 2
    (first,) = [
        stage
        for stage in make_stages(study, resolved, "out")
        if stage.kind == "first_stage"
    ]
    assert first.arms == ("a", "b")
    assert latents_name(resolved["a"]) == latents_name(resolved["b"])


def test_stages_come_after_those_they_need(study, arms):
    seen = set()
    for stage in make_stages(study, arms, "out"):
        assert set(stage.needs) <= seen, stage.name
        seen.add(stage.name)


def test_a_run_keeps_the_checkpoints_that_are_evaluated(study, arms):
    config = denoiser_config(study, arms["f=2"], seed=3, steps=8, out="out")
    assert config.seed == 3 and config.train.num_steps == 8
    assert config.train.keep_every == config.train.checkpoint_every == 4
    assert config.latents.directory == f"out/{latents_name(arms['f=2'])}"
    assert arms["f=2"].denoiser.latents.directory == ""  # the arm is as it was


def test_a_budget_of_time_is_measured_before_steps_are_known(study, arms, tmp_path):
    study = dataclasses.replace(study, budget=Budget(device_hours=1.0))
    stages = {s.name: s for s in make_stages(study, arms, str(tmp_path))}
    assert "speed/f=2" in stages["denoiser/f=2/seed0"].needs
    assert "follow from the measured speed" in stages["denoiser/f=2/seed0"].note
    finish(tmp_path / "speed/f=2", dict(seconds_per_step=3.6))
    stages = {s.name: s for s in make_stages(study, arms, str(tmp_path))}
    assert "steps of 8 images" in stages["denoiser/f=2/seed0"].note


def test_stages_are_selected_by_arm_and_kind(study, arms):
    stages = make_stages(study, arms, "out")
    kinds = {stage.kind for stage in select(stages, only=["f=1"])}
    assert kinds == {"reference", "denoiser", "evaluate"}
    assert [s.name for s in select(stages, ["f=1"], "denoiser")] == [
        "denoiser/f=1/seed0"
    ]
    with pytest.raises(
        ValueError, match='there is no stage "latent"; one of: reference'
    ):
        select(stages, kind="latent")
