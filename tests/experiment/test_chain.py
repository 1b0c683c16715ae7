# SPDX-License-Identifier: Apache-2.0
"""The experiments of a quickstart, joined by the directory of the latents."""

import pytest

from ldm_jax.configs import photos, quickstart
from ldm_jax.experiment.chain import make_chain, naming_experiment


def test_the_denoiser_learns_from_the_latents_and_the_config_stays_as_it_is():
    config = quickstart.get_config()
    chain = make_chain(config, "./latents", "./data")
    assert chain.diffusion.latents.directory == "./latents"
    assert chain.first_stage.images.data_dir == "./data"
    assert chain.held_out == "test" and chain.num_classes == 10
    assert chain.check.num_neighbors == 1
    assert chain.inputs == {
        "image size": "16x16",
        "latents": "8x8x2, f = 2",
        "condition": "class",
    }
    assert chain.trainings["denoiser"] == "32 channels, 900 steps of 64"
    assert config.diffusion.latents.directory == ""


def test_captions_are_stored_with_the_latents_of_a_text_model():
    config = photos.choose(images="./a", condition="text")
    chain = make_chain(config, "./latents")
    stored = chain.encoding["config"]
    assert stored.condition.kind == "text"
    assert stored.images.split == chain.first_stage.images.split
    assert chain.check is None
    labels = photos.choose(images="./a", classes=("a", "b"))
    assert "config" not in make_chain(labels, "./latents").encoding


def test_errors_name_the_fields_in_the_config_of_all_experiments():
    texts = {
        "give --config.train.allow=True.": "give --config.diffusion.train.allow=True.",
        "config.unet.a is 1: x": "config.diffusion.unet.a is 1: x",
        "/a/config.json: no, runs/config.py": "/a/config.json: no, runs/config.py",
    }
    for text, expected in texts.items():
        with pytest.raises(ValueError) as raised, naming_experiment("diffusion"):
            raise ValueError(text)
        assert str(raised.value) == expected


def test_a_misspelt_choice_of_an_edited_config_is_refused():
    """The default would be used in its place: 5,000 steps instead of 160."""
    with pytest.raises(ValueError, match='"num_stepz"; did you mean "num_steps"'):
        photos.choose(images="./a", num_stepz=160)


def test_a_misspelt_check_is_refused():
    config = quickstart.get_config().unlock()
    config.classifier.min_acuracy = 0.5
    with pytest.raises(TypeError, match="min_acuracy"):
        make_chain(config, "./latents")
