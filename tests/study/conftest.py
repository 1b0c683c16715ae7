# SPDX-License-Identifier: Apache-2.0
"""A small study as data, and the folder of one that is finished, written by hand."""

import numpy as np
import pytest
from PIL import Image

from ldm_jax.configs import common, small
from ldm_jax.files.formats import png
from ldm_jax.files.writing import write_json
from ldm_jax.study import engine
from ldm_jax.study.budget import resolve_arms
from ldm_jax.study.config import Arm, Budget, Study
from ldm_jax.study.rows import summary_of
from ldm_jax.study.stages import Stage

SIDE = 8
# A setting of the stages of `calls`.
RATE = [1]


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder of 16 random pictures, two of them held out."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(16):
        folder = root / ("test" if i < 2 else "train")
        folder.mkdir(exist_ok=True)
        picture = rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{i}.png")
    return root


def make_denoiser():
    """Makes the smallest denoiser, which leaves open what its latents tell."""
    config = common.latent_diffusion(image_size=None)
    config.unet = dict(channels=32, channel_mult=(1,), attention_levels=())
    config.unet.update(num_res_blocks=1, num_heads=1)
    config.batch_size = 8
    config.train.update(num_steps=1, report_every=1, ema_of=())
    config.sampling.grid = "even"
    return config


def make_stage(**fields):
    """Makes the smallest first stage of f = 2."""
    config = small.get_config()
    autoencoder = dict(channels=4, channel_mult=(1, 1), latent_channels=2)
    config.autoencoder = {**small.AUTOENCODER, **autoencoder, **fields}
    config.train.update(num_steps=2, report_every=1, checkpoint_every=2)
    return config


@pytest.fixture(scope="session")
def study(photos):
    """A study of pixels and of latents of f = 2, two steps each."""
    return Study(
        arms={"f=1": Arm(make_denoiser()), "f=2": Arm(make_denoiser(), make_stage())},
        budget=Budget(steps=2),
        images=dict(dataset=str(photos), split="train"),
        image_size=SIDE,
        evaluate_at=2,
        num_steps=2,
        sampling_steps=(1, 2),
        num_samples=8,
        metrics=("kid", "fid"),
        feature_network="random",
        num_shown=2,
        batch_size=8,
    )


@pytest.fixture(scope="session")
def arms(study):
    """The arms of the study, counted."""
    return resolve_arms(study)


@pytest.fixture
def calls(monkeypatch, arms):
    """Names of stages that ran; b needs a, d needs c, and c may be made to fail."""
    ran, broken = [], {"c/x"}

    def run(folder):
        name = f"{folder.parent.name}/{folder.name}"
        ran.append(name)
        if name in broken:
            raise ValueError("it does not fit")
        return dict(value=len(ran))

    def stages(study, arms, out):
        needs = {"a/x": (), "b/x": ("a/x",), "c/x": (), "d/x": ("c/x",)}
        owner = {"a/x": "f=1", "b/x": "f=1", "c/x": "f=2", "d/x": "f=2"}
        return [
            Stage(name, (owner[name],), needs[name], {"rate": RATE[0]}, run)
            for name in needs
        ]

    RATE[0] = 1
    monkeypatch.setattr(engine, "make_stages", stages)
    monkeypatch.setattr(engine, "resolve_arms", lambda study: arms)
    return ran, broken


@pytest.fixture
def written(study, arms, tmp_path):
    """The folder of a study of which all is finished but an evaluation of f=1."""
    write_json(tmp_path / "study.json", summary_of(study, arms))
    stage = arms["f=2"].stage
    figure = dict(label="FD(random)", value=0.5, spread=None)
    psnr = dict(label="psnr", value=21.5, spread=1.0)
    reconstructed = dict(figures=dict(fid=figure, psnr=psnr), warnings=["few images"])
    folder = tmp_path / "reconstructions" / stage
    for name in ("originals", "reconstructions"):
        png.save_png(folder / f"{name}.png", np.zeros((SIDE, 2 * SIDE, 3), np.uint8))
    finish(folder, reconstructed)
    trained = dict(seconds_per_step=36.0, num_devices=2)
    finish(tmp_path / "denoiser/f=2/seed0", trained)
    points = [
        point("point1of2-sampled2", 1, 2, 4.0),
        point("point2of2-sampled2", 2, 2, 2.0),
        point("point2of2-sampled1", 2, 1, 3.0),
    ]
    folder = tmp_path / "evaluate/f=2/seed0"
    for entry in points:
        for i in range(2):
            picture = np.full((SIDE, SIDE, 3), 100 * i, np.uint8)
            png.save_png(folder / entry["name"] / "images" / f"{i:06d}.png", picture)
    finish(folder, dict(points=points))
    write_json(tmp_path / "evaluate/f=1/seed0/failed.json", {"error": "it diverged"})
    return tmp_path


def finish(folder, result):
    """Writes a stage's result."""
    write_json(folder / "result.json", dict(settings={}, seconds=1.0, result=result))


def point(name, step, num_steps, distance):
    """Makes what was measured at one point."""
    return dict(
        name=name,
        step=step,
        num_steps=num_steps,
        figures=dict(kid=dict(label="KD(random)", value=distance, spread=None)),
        throughput=dict(images_per_second=10.0 / num_steps),
        num_images=8,
        warnings=["few samples"],
    )
