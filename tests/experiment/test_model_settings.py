# SPDX-License-Identifier: Apache-2.0
"""Settings of a model directory, as commands ask for them."""

import pytest
from ml_collections import ConfigDict

from ldm_jax.experiment.model_settings import ModelSettings, read_settings
from ldm_jax.experiment.stored_config import first_stage_of


@pytest.fixture(scope="module")
def digits():
    """The model that the package contains."""
    return read_settings("digits")


def test_a_diffusion_model_knows_size_classes_and_sampling(digits):
    assert digits.task == "latent_diffusion" and not digits.is_unconditional
    assert digits.image_size == (16, 16) and digits.image_side == 16
    assert digits.num_classes == 10 and not digits.reads_text
    assert digits.sampling({"num_steps": 7}).num_steps == 7
    assert set(digits.process) == {"scale", "predicts", "sampling"}


def test_a_first_stage_is_not_sampled(digits):
    stage = read_settings(first_stage_of("digits")[0])
    assert stage.task == "first_stage" and stage.sampling() is None
    assert stage.has_first_stage and digits.dataset == stage.dataset


def settings(**sections):
    return ModelSettings("", ConfigDict({"task": "latent_diffusion", **sections}))


@pytest.mark.parametrize(
    ("sections", "origin"),
    [
        (dict(latents=dict(directory="./l")), "latents ./l"),
        (dict(images=dict(dataset="./p")), "images ./p"),
        (dict(latents=dict(directory="")), "imported"),
    ],
)
def test_the_origin_of_a_model_is_its_data(sections, origin):
    assert settings(**sections).origin == origin


def test_sizes_that_differ_have_no_side():
    wide = settings(latents=dict(image_size=(16, 32)))
    assert wide.image_size == wide.image_side == (16, 32)
    assert settings().image_size is None


def test_places_of_this_machine_are_left_out_and_nothing_else():
    """Identity: every other field is as it was."""
    sections = dict(
        latents=dict(directory="/here", first_stage="/there", scale=0.5),
        images=dict(dataset="photos", data_dir="/data"),
    )
    model = settings(**sections)
    assert model.without_places() == {
        "task": "latent_diffusion",
        "latents": dict(directory="", first_stage=None, scale=0.5),
        "images": dict(dataset="photos", data_dir=None),
    }
    assert model.sections()["latents"]["directory"] == "/here"
