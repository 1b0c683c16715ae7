# SPDX-License-Identifier: Apache-2.0
"""Builders return data with a description, and shapes that follow from the config."""

import os

from ldm_jax.configs import quickstart
from ldm_jax.experiment.builders.first_stage import build_first_stage
from ldm_jax.experiment.resolve import resolve_config


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
