# SPDX-License-Identifier: Apache-2.0
"""What a user gives to `sample` is read, and refused by the name of its flag."""

import numpy as np
import pytest
from PIL import Image

import ldm_jax
from ldm_jax.commands.sampling import sample_inputs
from ldm_jax.conditions.kinds.class_label import ClassLabel
from ldm_jax.conditions.kinds.unconditional import Unconditional
from ldm_jax.experiment.model_settings import read_settings


@pytest.fixture(scope="module")
def digits():
    return read_settings("digits")


def test_the_size_is_as_requested_or_of_the_condition_or_of_training(digits):
    choose = sample_inputs.choose_image_size
    assert choose(digits, None, None) == (16, 16)
    assert choose(digits, (8, 24), None) == (8, 24)
    assert choose(digits, None, (32, 16)) == (32, 16)
    with pytest.raises(ValueError, match="condition, 8x24: got --size 32x16; leave"):
        choose(digits, (8, 24), (32, 16))


def test_a_size_that_the_model_cannot_make_is_refused_with_the_nearest():
    """Oracle: f = 2 and a denoiser of two levels take multiples of four."""
    model, _ = ldm_jax.load("digits")
    for size in ((16, 16), (20, 8)):
        sample_inputs.check_sample_size(model, size, is_tiled=False)
    sample_inputs.check_sample_size(model, (18, 16), is_tiled=True)
    for size, nearest in (((18, 16), "16x16"), ((1, 23), "4x24")):
        with pytest.raises(ValueError, match=f"multiples of 4 .* size is {nearest}"):
            sample_inputs.check_sample_size(model, size, is_tiled=False)
    with pytest.raises(ValueError, match="multiples of 2 "):
        sample_inputs.check_sample_size(model, (17, 16), is_tiled=True)


def test_a_condition_gets_the_inputs_that_it_takes():
    condition = ClassLabel(3, class_names=("a", "b", "c"))
    y = sample_inputs.read_condition(condition, {"class_label": ["c", "a"]})
    assert y["label"].tolist() == [2, 0]
    with pytest.raises(ValueError, match="takes --label: got --prompt; see"):
        sample_inputs.read_condition(condition, {"text": ["a cat"]})
    with pytest.raises(ValueError, match="takes no flag for it: got --label"):
        sample_inputs.read_condition(Unconditional(), {"class_label": [0]})


def test_only_a_model_that_retrieves_has_neighbours():
    with pytest.raises(ValueError, match='has the "class" condition; leave them out'):
        sample_inputs.retrieval_of(ClassLabel(3))


def test_pictures_must_have_the_size_of_the_samples(tmp_path):
    path = str(tmp_path / "start.png")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    images = sample_inputs.read_images({"start": path}, (8, 8), {})
    assert images["start"].shape == (1, 8, 8, 3) and (images["start"] == -1).all()
    with pytest.raises(ValueError, match="as large as the samples, 16x16: got 8x8"):
        sample_inputs.read_images({"start": path}, (16, 16), {})
    with pytest.raises(ValueError, match="got no --start; give it, or leave"):
        sample_inputs.read_images({}, (8, 8), {"strength": 0.5})
    with pytest.raises(ValueError, match="give both --known and --hole"):
        sample_inputs.read_images({"known": path}, (8, 8), {})


def test_a_hole_must_leave_something_to_keep(tmp_path):
    path = str(tmp_path / "white.png")
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(path)
    with pytest.raises(ValueError, match="is white, so nothing would be kept"):
        sample_inputs.read_images({"known": path, "hole": path}, (8, 8), {})
