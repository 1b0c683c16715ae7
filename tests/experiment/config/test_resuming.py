# SPDX-License-Identifier: Apache-2.0
"""Which settings may change when a run is resumed."""

import dataclasses

import pytest

from ldm_jax.experiment.config.resuming import defines_model, may_change
from ldm_jax.training.options import LoopOptions


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("sampling.num_steps", True),
        ("evaluation.metrics", True),
        ("mesh.fsdp", True),
        ("unet.remat", True),
        ("unet.channels", False),
        ("condition.vocab", True),
        ("condition.kind", False),
        ("lpips.file", True),
        ("lpips.fingerprint", False),
        ("images.split", "allow_data_change"),
        ("seed", "allow_data_change"),
        ("optimizer.learning_rate", "allow_optimizer_change"),
        ("optimizer.schedule", "allow_optimizer_change"),
        ("train.num_steps", True),
        ("train.accumulate", False),
        ("train.unknown", False),
        ("trainer", False),
    ],
)
def test_a_setting_may_change_or_not_or_if_an_option_allows_it(name, rule):
    assert may_change(name) == rule


def test_every_rule_names_an_option_of_the_loop():
    options = {field.name for field in dataclasses.fields(LoopOptions)}
    rules = {may_change(name) for name in ("seed", "optimizer.b1", "latents.scale")}
    assert rules <= options


def test_what_defines_a_model_is_what_its_networks_compute():
    assert defines_model("unet.channels") and defines_model("latents.scale")
    assert not defines_model("latents.directory") and not defines_model("optimizer.b1")
