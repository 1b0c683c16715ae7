# SPDX-License-Identifier: Apache-2.0
"""What images are sampled from: conditions in turn, settings, guides."""

import jax
import numpy as np
import pytest

import ldm_jax
from ldm_jax.commands.sampling.drawing import Guidance, prepare_drawing
from ldm_jax.experiment.model_settings import read_settings


@pytest.fixture(scope="module")
def digits():
    model, params = ldm_jax.load("digits")
    return model, params, read_settings("digits", "latent_diffusion")


def prepared(digits, inputs, **options):
    model, params, trained = digits
    sampling = trained.sampling({"num_steps": 2})
    return prepare_drawing(model, params, trained, sampling, inputs, {}, **options)


def test_conditions_take_turns_and_seeds_count_on(digits):
    """Identity: image 3 of labels 4, 7 with seed 5 is label 7 with seed 8."""
    of_two = prepared(digits, {"class_label": [4, 7]}, seed=5)
    of_one = prepared(digits, {"class_label": [7]}, seed=8)
    assert of_two.num_conditions == 2 and of_one.num_conditions == 1
    (first,) = of_two.draw(np.array([3]), 8)
    (second,) = of_one.draw(np.array([0]), 8)
    assert np.array_equal(first, second)


def test_settings_say_what_was_asked_for(digits):
    settings = prepared(digits, {"class_label": [4]}, seed=5).settings
    assert settings["seed"] == 5 and settings["condition"] == {"class_label": "[4]"}
    assert settings["image_size"] == [16, 16]
    assert settings["sampling"]["num_steps"] == 2
    assert not {"classifier", "guide", "query"} & set(settings)


def test_other_weights_or_inputs_have_another_fingerprint(digits):
    """Also where the names of their files are the same."""
    model, params, trained = digits
    drawing = prepared(digits, {"class_label": [4]})
    assert drawing.fingerprint == prepared(digits, {"class_label": [4]}).fingerprint
    other = jax.tree.map(lambda x: x + 1, params)
    black, white = ({"start": np.full((1, 2, 2, 3), x)} for x in (-1.0, 1.0))
    drawings = (
        drawing,
        prepared((model, other, trained), {"class_label": [4]}),
        prepared(digits, {"class_label": [5]}),
        drawing._replace(given=black),
        drawing._replace(given=white),
    )
    assert len({drawing.fingerprint for drawing in drawings}) == len(drawings)


def test_the_latents_follow_the_size(digits):
    drawing = prepared(digits, {"class_label": [4]}, image_size=(32, 48))
    assert drawing.size == (32, 48) and drawing.latent_shape == (16, 24, 2)


def test_guidance_notes_only_what_is_given():
    assert Guidance().to_dict() == {}
    by_eps = Guidance("runs/c", classifier_scale=3.0).to_dict()
    assert by_eps == {"classifier": "runs/c", "classifier_scale": 3.0}
    by_mean = Guidance("runs/c", classifier_form="mean").to_dict()
    assert by_mean["form"] == "mean" and by_mean["classifier_scale"] == 1.0
