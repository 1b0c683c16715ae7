# SPDX-License-Identifier: Apache-2.0
"""Models and transforms made of sections."""

import numpy as np

from ldm_jax.configs import quickstart
from ldm_jax.experiment.models import still_transform, training_images


def test_held_out_images_are_cut_the_same_way_every_time():
    fields = dict(image_size=16, crop="random", min_scale=0.5, flip=True)
    still = still_transform(fields)
    record = {"image": np.arange(40 * 24 * 3, dtype=np.uint8).reshape(40, 24, 3)}
    first, second = (still(record, np.random.default_rng(n)) for n in range(2))
    np.testing.assert_array_equal(first["image"], second["image"])


def test_the_images_of_a_first_stage_are_those_of_training_or_held_out():
    config = quickstart.get_config("stage=first_stage")
    images, transform = training_images(config, (8, 12))
    assert (images["dataset"], images["split"]) == ("digits", "train")
    assert transform.size == (8, 12) and not transform.flip
    assert training_images(config, held_out=True)[0]["split"] == "test"
    config.held_out = ""
    assert training_images(config, held_out=True)[0]["split"] == "train"
