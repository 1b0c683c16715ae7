# SPDX-License-Identifier: Apache-2.0
"""Choices follow the folder and the device, and are a config file that can be run."""

import dataclasses

import numpy as np
import pytest

from ldm_jax.commands.photos.choices import BUDGETS, choose_settings, config_file
from ldm_jax.data.images.survey import Survey
from ldm_jax.experiment.config.config_files import load_config

FLOWERS = Survey(
    folder="/photos",
    sizes=np.full((600, 2), 128),
    formats={".jpg": 600},
    classes={name: 120 for name in ("daisy", "rose's", "tulip", "aster", "lily")},
    captions=None,
    num_held_out=60,
    left_out=(),
    fingerprint="0" * 16,
)


def changed(**values):
    return dataclasses.replace(FLOWERS, **values)


@pytest.mark.parametrize(
    ("folder", "platform", "expected"),
    [
        ({}, "cpu", dict(image_size=32, f=2, condition="class", held_out="test")),
        ({}, "gpu", dict(image_size=128, f=8, condition="class")),
        ({"sizes": np.full((600, 2), 40)}, "cpu", dict(image_size=32, f=2)),
        ({"sizes": np.full((600, 2), 17)}, "cpu", dict(image_size=16, f=2)),
        ({"classes": {}}, "cpu", dict(condition="none")),
        ({"captions": "txt"}, "cpu", dict(condition="text", captions="txt")),
        ({"num_held_out": 2}, "cpu", dict(held_out="")),
        ({"classes": dict.fromkeys(map(str, range(300)), 2)}, "cpu", {}),
    ],
)
def test_choices_follow_folder_and_device(folder, platform, expected):
    settings = choose_settings(changed(**folder), platform).settings
    assert {name: settings[name] for name in expected} == expected


def test_too_many_classes_are_not_learned_and_this_is_reported():
    made = choose_settings(
        changed(classes=dict.fromkeys(map(str, range(300)), 2)), "cpu"
    )
    assert made.settings["condition"] == "none"
    assert "300 class folders" in made.reasons["condition"]


@pytest.mark.parametrize("platform", sorted(BUDGETS))
@pytest.mark.parametrize("condition", ["class", "none", "text"])
def test_choices_are_a_config_that_loads(platform, condition, tmp_path):
    """Identity: what was chosen is in the config, and one stage alone is too."""
    folder = dict(none={"classes": {}}, text={"captions": "txt"}).get(condition, {})
    made = choose_settings(changed(**folder), platform)
    path = tmp_path / "config.py"
    path.write_text(config_file(made.settings))
    whole = load_config(str(path))
    assert whole.first_stage.images.dataset == "/photos"
    assert whole.first_stage.transform.image_size == made.settings["image_size"]
    assert whole.diffusion.train.num_steps == made.settings["num_steps"]
    assert whole.diffusion.condition.get("kind") == condition
    alone = load_config(f"{path}:stage=diffusion")
    assert alone.to_dict() == whole.diffusion.to_dict()


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ({"sizes": np.full((1, 2), 64)}, "at least 16 pictures"),
        ({"sizes": np.full((50, 2), 12)}, "sides of at least 16 pixels"),
    ],
)
def test_folders_that_make_no_model_are_refused(folder, message):
    with pytest.raises(ValueError, match=message):
        choose_settings(changed(**folder), "cpu")


@pytest.mark.parametrize(("size", "f"), [(16, 2), (32, 2), (64, 4), (128, 8)])
def test_a_size_may_be_requested_and_latents_have_8x8_at_least(size, f):
    settings = choose_settings(FLOWERS, "cpu", size).settings
    assert settings["image_size"] == size and settings["f"] == f


def test_a_size_that_f_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="--size must be one of 16, 32, 64"):
        choose_settings(FLOWERS, "cpu", 48)
