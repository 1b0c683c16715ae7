# SPDX-License-Identifier: Apache-2.0
"""Figures distinguish copies and wrong colours from good samples."""

import numpy as np
import pytest

from ldm_jax.commands.photos.figures import compare_samples
from ldm_jax.configs import photos
from ldm_jax.data.images.image_sets import open_images
from ldm_jax.data.transforms.image_transform import ImageTransform
from ldm_jax.files.formats import png
from tests.commands.photos.test_run import colours


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    folder = colours(tmp_path_factory.mktemp("figures") / "photos", count=60)
    return photos.choose(
        images=str(folder), classes=("a", "b"), image_size=16, f=2
    ).first_stage


def split(stage, name):
    source = open_images(**{**stage.images, "split": name})
    transform, rng = ImageTransform(16), np.random.default_rng(0)
    images = [transform(source[i], rng)["image"] for i in range(len(source))]
    return png.to_uint8(np.stack(images))


def test_samples_like_held_out_pictures_have_their_distances(stage):
    """Identity: held-out pictures as samples."""
    figures = compare_samples(stage, split(stage, "test"))
    for kind in ("colour", "nearest"):
        distances = [figures[f"{kind}_distance_{n}"] for n in ("samples", "held_out")]
        assert distances[0] == pytest.approx(distances[1], rel=0.1)


def test_copies_are_nearer_than_held_out_pictures(stage):
    figures = compare_samples(stage, split(stage, "train"))
    assert figures["nearest_distance_samples"] < 0.01
    assert figures["nearest_distance_held_out"] > 0.03


def test_samples_of_other_colours_are_further_away(stage):
    figures = compare_samples(stage, 255 - split(stage, "test"))
    assert figures["colour_distance_samples"] > 5 * figures["colour_distance_held_out"]
