# SPDX-License-Identifier: Apache-2.0
"""Which images a first stage encodes."""

import pytest

from ldm_jax.configs import quickstart, small_class
from ldm_jax.experiment.encoding import images_of, open_encoding


def stage(**images):
    config = quickstart.get_config("stage=first_stage")
    config.images.update(images)
    return config


def test_the_images_are_those_of_training_unless_others_are_named():
    spec, transform = images_of(stage(), None, None)
    assert spec["dataset"] == "digits" and transform.flip is False
    spec, _ = images_of(stage(), "./photos", "test")
    assert spec["dataset"] == "./photos" and spec["split"] == "test"


def test_held_out_images_are_those_of_the_training_set_only():
    config = stage()
    spec, _ = images_of(config, None, None, held_out=True)
    assert spec["split"] == config.held_out
    spec, _ = images_of(config, "./photos", None, held_out=True)
    assert spec["split"] == config.images.split


def test_an_imported_first_stage_must_be_given_images():
    with pytest.raises(ValueError, match="no training images: give --images FOLDER"):
        images_of(stage(dataset=""), None, None)


def test_the_images_of_a_diffusion_config_must_be_named():
    arguments = "model", stage(dataset=""), small_class.get_config(), None, None, None
    with pytest.raises(ValueError, match=r"config\.images\.dataset must name the"):
        open_encoding(*arguments)
