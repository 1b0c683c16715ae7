# SPDX-License-Identifier: Apache-2.0
"""Builds runs, real or abstract, from configs, with every error before training."""

import jax
import numpy as np
import pytest
from PIL import Image

from ldm_jax.configs import quickstart
from ldm_jax.experiment.config.schema import changed
from ldm_jax.experiment.prepare import prepare
from ldm_jax.tasks.sampling import make_sampling

SIDE = 8


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    """The config of a small denoiser of pixels, on a folder of pictures."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(8):
        picture = rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{i}.png")
    config = quickstart.get_config("stage=diffusion")
    with config.unlocked():
        config.autoencoder = dict(bottleneck="pixels")
        config.condition = dict(kind="none")
    config.objective.drop_probability = 0.0
    config.unet.update(channel_mult=(1,), attention_levels=(), context_dim=None)
    config.unet.update(transformer_depth=0)
    config.images.update(dataset=str(folder), split="all")
    config.latents.update(image_size=SIDE, scale=1.0)
    config.sampling.update(num_steps=2, guidance_scale=1.0)
    config.batch_size = 8
    config.train.num_steps = 2
    return config


def test_an_abstract_run_has_the_shapes_of_a_whole_one_and_touches_nothing(
    pixels, tmp_path
):
    before = pixels.to_dict()
    whole = prepare(pixels, str(tmp_path / "run"))
    pixels.latents.first_stage = "nowhere"  # images are encoded in every step
    abstract = prepare(pixels, str(tmp_path / "abstract"), abstract=True)
    pixels.latents.first_stage = None
    assert pixels.to_dict() == before
    assert abstract.batches is None and not (tmp_path / "abstract").exists()
    for name, shape in whole.batch_shapes.items():
        given = abstract.batch_shapes[name]
        assert (given.shape, given.dtype) == (shape.shape, shape.dtype)
    shapes = [
        jax.eval_shape(lambda key, r=r: r.task.init(key, r.batch_shapes)[0], KEY)
        for r in (whole, abstract)
    ]
    assert shapes[0] == shapes[1]
    assert whole.sampling == abstract.sampling == make_sampling(**before["sampling"])
    assert whole.config["train"]["keep"] == whole.options.keep


KEY = jax.random.key(0)


def test_a_run_among_its_own_images_is_refused(pixels):
    """Its pictures would be images of the next run, or of itself when it resumes."""
    workdir = f"{pixels.images.dataset}/run"
    with pytest.raises(ValueError, match="--workdir must be outside of the images"):
        prepare(pixels, workdir)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sampling.num_steps": 3}, "no 3 steps of T=1000; the nearest it has"),
        ({"sampling.tile": 4, "sampling.overlap": 5}, r"config\.sampling .*overlap"),
        ({"sampling.snap_to_codebook": True}, "codes need a first stage"),
        ({"seed": 99_999_999_999}, r"config\.seed must be a whole number from 0 to"),
        ({"seed": -1}, r"config\.seed must be a whole number"),
        ({"batch_size": 0}, r"config\.batch_size must be a whole number from 1"),
        ({"train.report_every": 0}, r"train\.report_every must be at least 1"),
        ({"train.keep": 0}, r"train\.keep must be at least 1"),
        ({"train.num_steps": -5}, r"train\.num_steps must be at least 1"),
        ({"latents.scale": None}, r"config\.latents\.scale must be given"),
        ({"images.dataset": ""}, "learns from latents or from images: got neither"),
    ],
)
def test_what_would_fail_later_is_refused_before_training(
    pixels, tmp_path, values, message
):
    with pytest.raises(ValueError, match=message):
        prepare(changed(pixels, values), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_one_number_makes_a_run_longer_and_its_schedule_with_it(pixels):
    """The command of the README: --config.diffusion.train.num_steps=2000."""
    run = prepare(changed(pixels, {"train.num_steps": 2000}), abstract=True)
    rate = run.optimizer.rates["learning_rate"]
    assert float(rate(1999)) > 0 and float(rate(1900)) > 1e-6
    with pytest.raises(ValueError, match=r"optimizer\.schedule\.num_steps=900 makes"):
        with_length = changed(pixels, {"train.num_steps": 2000})
        with with_length.unlocked():
            with_length.optimizer.schedule.num_steps = 900
        prepare(with_length, abstract=True)
