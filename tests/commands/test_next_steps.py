# SPDX-License-Identifier: Apache-2.0
"""The commands that are named at the end can be parsed, and fit what is there."""

import shlex

import pytest

from ldm_jax import cli
from ldm_jax.commands import next_steps
from ldm_jax.conditions.registry import make_condition
from ldm_jax.experiment.config.config_files import load_config


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"moments"}, "none"),
        ({"moments", "label"}, "class"),
        ({"moments", "caption", "label"}, "text"),
        ({"moments", "boxes", "box_labels"}, "layout"),
        ({"moments", "label_map"}, "semantic"),
        ({"moments", "embeddings"}, "retrieval"),
    ],
)
def test_latents_are_for_a_config_that_reads_their_fields(fields, kind):
    inspect, train = next_steps.after_latents("my latents", fields)
    for line in (inspect, train):
        program, *words = shlex.split(line)
        assert program == "ldm-jax"
        args, overrides = cli.parse(words)
    assert overrides == ["--config.latents.directory=my latents"]
    assert load_config(args.config).condition.kind == kind


def test_a_denoiser_is_sampled_with_the_flags_of_its_condition():
    names = ("blue sky", "rose")
    condition = make_condition("class", num_classes=2, width=8, class_names=names)
    sample, demo = next_steps.after_denoiser("runs/a", condition)
    args, _ = cli.parse(shlex.split(sample)[1:])
    assert args.label == "blue sky" and args.model == "runs/a"
    assert cli.parse(shlex.split(demo)[1:])[0].command == "demo"
