# SPDX-License-Identifier: Apache-2.0
"""The speed of configs as rows of the paper: steps, guidance, guides, errors."""

import functools
import re

import jax
import numpy as np
import pytest

from ldm_jax.commands.bench.model_speed import (
    as_in_the_paper,
    open_config,
    paper_line,
)
from ldm_jax.diffusion.samplers.base import seed_keys
from ldm_jax.experiment.config.config_files import load_config
from ldm_jax.metrics.paper import SPEEDS
from ldm_jax.tasks.generate import latent_generator
from tests.test_config_notes import CONFIGS, lines


def config_of(row):
    """The first config in the row's line of the table of experiments."""
    row = row.removesuffix("-512")
    (configs,) = [configs for configs, rows in lines() if row in rows]
    name = re.findall(r"`([^`]+)`", configs)[0]
    # A classifier guides the model that its lab note names.
    return "imagenet:f=8" if name == "imagenet_classifier" else name


@functools.cache
def tiny(name):
    """A config of the paper with narrow networks, for images of 64x64."""
    config = load_config(
        f"{CONFIGS / name.partition(':')[0]}.py:{name.partition(':')[2]}"
    )
    with config.unlocked():
        config.unet.update(channels=32, channel_mult=(1, 1), num_res_blocks=1)
        config.unet.attention_levels = (
            (1,) if config.unet.get("attention_levels") else ()
        )
        config.latents.image_size = 64
        config.latents.scale = 1.0
        if config.autoencoder.bottleneck != "pixels":
            config.autoencoder.update(channels=32, num_res_blocks=1)
    return open_config(config, 1)


@pytest.mark.parametrize("row", SPEEDS)
def test_every_printed_speed_is_compared_with_its_own_steps_and_guidance(row):
    """Paper: Tab. 5, 6 and 18; the config is that of the row's line in the table."""
    paper, plain = SPEEDS[row], tiny(config_of(row))
    sampled = as_in_the_paper(plain, paper)
    assert sampled.sampling.num_steps == (paper.steps or plain.sampling.num_steps)
    assert sampled.sampling.guidance_scale == paper.guidance_scale
    kinds = [type(guide).__name__ for guide in sampled.guides]
    known = {"": [], "classifier": ["ClassifierGuide"], "lpips": ["ImageGuide"]}
    assert kinds == known[paper.guide]
    assert f"{paper.images_per_second} images/s on an A100" in paper_line(row, paper)


@pytest.mark.parametrize(
    ("row", "read"),
    [("imagenet-f8-g", "guided_label"), ("superres-guided-50", "guided_image")],
)
def test_guided_rows_are_sampled_with_their_guide(row, read):
    """Identity: traced, not run; the guide reads its own field."""
    sampled = as_in_the_paper(tiny(config_of(row)), SPEEDS[row])
    draw = latent_generator(
        sampled.model, sampled.shape, sampled.sampling, guides=sampled.guides
    )
    keys = jax.eval_shape(lambda: seed_keys(np.arange(1)))
    z_0, _ = jax.eval_shape(draw, sampled.params, sampled.y, keys, {})
    assert z_0.shape == (1, *sampled.shape)
    without = {name: x for name, x in sampled.y.items() if name != read}
    with pytest.raises(KeyError, match=read):
        jax.eval_shape(draw, sampled.params, without, keys, {})


def test_a_classifier_guides_models_with_classes_alone():
    with pytest.raises(ValueError, match=r'without classes .*"superres".*imagenet:f=8'):
        as_in_the_paper(tiny("superres"), SPEEDS["imagenet-f8-g"])


def test_a_config_of_a_first_stage_is_refused():
    config = load_config(str(CONFIGS / "first_stage_kl.py"))
    config.lpips.file = ""
    with pytest.raises(ValueError, match="must be of a diffusion model: got"):
        open_config(config, 1)
