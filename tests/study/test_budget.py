# SPDX-License-Identifier: Apache-2.0
"""Steps follow from counted FLOPs; configs are completed by their first stage."""

import dataclasses

import pytest

from ldm_jax.configs import common
from ldm_jax.experiment.config.schema import changed
from ldm_jax.study.budget import TrainingCost, cost_of, resolve_arms
from ldm_jax.study.config import Arm, Budget
from tests.study.conftest import SIDE, make_denoiser, make_stage


def with_budget(study, arms, **budget):
    changed = dataclasses.replace(study, budget=Budget(**budget))
    return [arm.steps(changed) for arm in arms.values()]


def test_equal_flops_are_more_steps_where_a_step_costs_less(study, arms):
    """Identity: steps times FLOPs of a step is the budget, up to evaluate_at steps."""
    flops = 100 * arms["f=1"].cost.flops_per_step
    pixels, latents = with_budget(study, arms, flops=flops)
    assert pixels == 100 and latents > 200
    for arm, steps in zip(arms.values(), (pixels, latents), strict=True):
        assert steps % study.evaluate_at == 0
        spare = flops - steps * arm.cost.flops_per_step
        assert 0 <= spare < study.evaluate_at * arm.cost.flops_per_step


def test_the_first_stage_is_paid_from_the_budget_only_where_it_counts(study, arms):
    longer = changed(arms["f=2"].first_stage, {"train.num_steps": 100})
    arm = dataclasses.replace(arms["f=2"], first_stage=longer)
    stage = arm.first_stage_flops
    assert stage == arm.stage_cost.flops_per_step * 100
    flops = stage + 10 * arm.cost.flops_per_step
    counted = dataclasses.replace(
        study, budget=Budget(flops=flops, counts_first_stage=True)
    )
    assert arm.steps(counted) == 10
    assert arm.steps(dataclasses.replace(study, budget=Budget(flops=flops))) > 10


def test_a_budget_of_time_takes_the_measured_speed(study, arms):
    import jax

    hours = dataclasses.replace(study, budget=Budget(device_hours=1))
    seconds = 36.0
    assert arms["f=1"].steps(hours, seconds) == 100 // jax.device_count() // 2 * 2


def test_a_budget_below_a_step_is_refused_with_the_price_of_one(study, arms):
    with pytest.raises(ValueError, match=r"f=1: .*got 0 steps for 1 FLOPs.*a step is"):
        with_budget(study, arms, flops=1)


def test_an_open_config_takes_what_its_first_stage_has(arms):
    assert arms["f=2"].denoiser.autoencoder.latent_channels == 2
    assert arms["f=2"].latent_shape == (SIDE // 2, SIDE // 2, 2) and arms["f=2"].f == 2
    assert arms["f=1"].denoiser.autoencoder.bottleneck == "pixels"
    assert arms["f=1"].latent_shape == (SIDE, SIDE, 3) and arms["f=1"].stage == ""


def test_arms_that_do_not_fit_are_refused_with_a_line_each(study):
    deep = make_stage(channel_mult=(1,) * 5)
    unet = make_denoiser()
    unet.unet.channel_mult = (1,) * 6
    arms = {
        "f=16": Arm(make_denoiser(), deep),
        "deep": Arm(unet),
        "ok": study.arms["f=1"],
    }
    with pytest.raises(ValueError) as error:
        resolve_arms(dataclasses.replace(study, arms=arms))
    lines = str(error.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["arm f=16", "arm deep"]
    with pytest.raises(ValueError, match="there is no arm f=3; one of: f=1, f=2"):
        resolve_arms(study, ("f=3",))


def test_the_cost_of_pixels_grows_with_their_number():
    """Oracle: convolutions of four times the pixels are four times the work or more."""
    config = make_denoiser().unlock()
    config.autoencoder = dict(bottleneck="pixels")
    config.latents.image_size = 16
    small = cost_of(config)
    config.latents.image_size = 32
    large = cost_of(config)
    assert isinstance(small, TrainingCost) and small.parameters == large.parameters
    # Attention in the middle grows with their square.
    assert 4 < large.flops_per_image / small.flops_per_image < 16


def test_images_are_opened_for_their_classes_only_where_a_config_leaves_them_open(
    study, tmp_path
):
    open_config, config = make_denoiser(), make_denoiser()
    common.add_classes(open_config, None, has_null=True)
    common.add_classes(config, 3, has_null=True)
    arms = {"open": Arm(open_config), "three": Arm(config)}
    missing = dict(dataset=str(tmp_path / "none"))
    study = dataclasses.replace(study, arms=arms, images=missing)
    with pytest.raises(ValueError, match=r"^arm open: images must be in a folder: "):
        resolve_arms(study)
    assert resolve_arms(study, ("three",))["three"].cost.parameters > 0
