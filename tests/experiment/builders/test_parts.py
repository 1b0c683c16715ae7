# SPDX-License-Identifier: Apache-2.0
"""Builders return data with a description, and shapes that follow from the config."""

import os

import numpy as np
import pytest

from ldm_jax.configs import photos, quickstart
from ldm_jax.experiment.builders.first_stage import build_first_stage
from ldm_jax.experiment.resolve import resolve_config
from ldm_jax.files.formats.png import save_png


def test_photographs_are_read_by_every_core_and_described():
    config, inputs = resolve_config(
        quickstart.get_config("stage=first_stage"), abstract=False
    )
    parts = build_first_stage(config, inputs, abstract=False)
    assert parts.examples.num_threads == os.cpu_count()
    count = f"{len(parts.examples.source):,} images of"
    assert parts.examples.description.startswith(count)
    assert parts.evaluate is not None


def test_abstract_parts_have_shapes_and_no_data():
    config, inputs = resolve_config(
        quickstart.get_config("stage=first_stage"), abstract=True
    )
    parts = build_first_stage(config, inputs, abstract=True)
    assert parts.examples is None and parts.evaluate is None
    size = config.transform.image_size
    assert parts.batch_shapes["image"].shape[:3] == (config.batch_size, size, size)


@pytest.mark.parametrize(("image_size", "small"), [(16, 0), (24, 2), (48, 3)])
def test_pictures_smaller_than_the_images_are_reported(image_size, small, tmp_path):
    """Sides of 20, 21 and 40 pixels, of either orientation."""
    for i, size in enumerate([(20, 60), (60, 21), (40, 40)]):
        save_png(tmp_path / f"{i}.png", np.zeros((*size, 3), np.uint8))
    config = photos.get_config("stage=first_stage")
    config.images.update(dataset=str(tmp_path), split="all")
    config.held_out, config.transform.image_size = "", image_size
    parts = build_first_stage(*resolve_config(config, abstract=False), abstract=False)
    line = parts.description.get("enlarged", "")
    assert line.startswith(f"{small} of 3 pictures") if small else line == ""
    assert not small or f"images.min_side={image_size}" in line
