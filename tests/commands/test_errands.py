# SPDX-License-Identifier: Apache-2.0
"""A new condition or sampler is one file and one row, and every command works with it.

The condition is tests/conditions/depth.py, the sampler is below.
"""

import json
from typing import Annotated

import numpy as np
import pytest
from PIL import Image

import ldm_jax
from ldm_jax import cli
from ldm_jax.commands.exports.stablehlo import make_programs
from ldm_jax.conditions.registry import CONDITIONS
from ldm_jax.data.latents.sets import open_latent_sets
from ldm_jax.diffusion.samplers import SAMPLERS
from ldm_jax.diffusion.samplers.ddim import ddim
from ldm_jax.experiment import models
from ldm_jax.experiment.config import config_files, schema
from ldm_jax.experiment.prepare import prepare
from ldm_jax.tasks.sampling import make_sampling
from ldm_jax.training.checkpoints.params import save_params
from tests.conditions.depth import Depth

SIDE = 8
CONFIG = """
from ldm_jax.configs import quickstart


def get_config(arg=""):
    config = quickstart.get_config("stage=diffusion")
    config.images = dict(dataset={photos!r}, split="all")
    config.condition = dict(kind="depth")
    config.unet = dict(channels=32, channel_mult=(1,), num_heads=1, in_channels=3)
    config.latents.update(directory={latents!r}, image_size=8, flip=True)
    config.objective.drop_probability = 0.5
    config.batch_size = 8
    config.train.update(num_steps=2, report_every=1, checkpoint_every=2)
    config.train.update(evaluate_every=2, ema_of=())
    config.sampling = dict(num_steps=2, grid="even", guidance_scale=2.0)
    return config
"""


def wobbly(schedule, wobble: Annotated[float, "nothing, in a test"] = 0.0):
    """A sampler that only the tests have, with an option that only it has."""
    if wobble < 0:
        raise ValueError(f"wobble must be 0 or more: got {wobble}.")
    return ddim(schedule, eta=min(wobble, 1.0))


@pytest.fixture(autouse=True)
def rows(monkeypatch):
    monkeypatch.setitem(CONDITIONS, "depth", Depth)
    monkeypatch.setitem(SAMPLERS, "wobbly", wobbly)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Photos, a first stage, their latents and a model of depth, by commands."""
    root = tmp_path_factory.mktemp("errands")
    (root / "photos").mkdir()
    for i in range(8):
        pixels = np.random.default_rng(i).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        Image.fromarray(pixels).save(root / "photos" / f"{i}.png")
    stage = config_files.load_config("quickstart:stage=first_stage")
    with stage.unlocked():
        stage.autoencoder.channels = 32
        stage.images = dict(dataset=str(root / "photos"), split="all")
        stage.transform.image_size = SIDE
    autoencoder = models.make_first_stage(stage).autoencoder
    image, key = np.zeros((1, SIDE, SIDE, 3), np.float32), np.zeros(2, np.uint32)
    params = autoencoder.init(key, image, key)["params"]
    save_params(str(root / "stage"), {"autoencoder": params}, stage.to_dict())
    photos, latents = str(root / "photos"), str(root / "latents")
    config = CONFIG.format(photos=photos, latents=latents)
    config = config.replace(
        "    config.condition",
        f"    config.autoencoder = {dict(stage.autoencoder)}\n    config.condition",
        1,
    )
    (root / "depth.py").write_text(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONDITIONS, "depth", Depth)
        config = f"--config={root / 'depth.py'}"
        stage = f"--model={root / 'stage'}"
        assert cli.main(["latents", config, stage, f"--out={latents}"]) == 0
        assert cli.main(["train", config, f"--workdir={root / 'model'}"]) == 0
    return root


def test_latents_store_the_new_field_and_its_mirror_image(root):
    source, _, _ = open_latent_sets(root / "latents")
    record = source[0]
    assert record["depth"].shape == (SIDE, SIDE, 1)
    np.testing.assert_array_equal(record["depth_flip"], record["depth"][:, ::-1])
    with Image.open(root / "photos" / "0.png") as photo:
        brightness = np.asarray(photo).mean(-1, keepdims=True) / 255
    np.testing.assert_allclose(record["depth"], brightness, atol=1e-6)


def test_samples_take_the_new_flag_and_the_option_of_the_new_sampler(root, capsys):
    argv = ["sample", f"--model={root / 'model'}", f"--depth={root / 'photos/0.png'}"]
    argv += [f"--out={root / 'out'}", "--sampler=wobbly"]
    assert cli.main([*argv, "--wobble=0.5"]) == 0
    settings = json.loads((root / "out" / "settings.json").read_text())
    assert settings["sampling"]["wobble"] == 0.5
    assert settings["condition"] == {"depth": str(root / "photos/0.png")}
    assert cli.main([*argv, "--wobble=-1"]) == 2
    assert "wobble must be 0 or more" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["sample", "--help"])
    page = capsys.readouterr().out
    assert "(depth)" in page and "nothing, in a test (wobbly)" in page


def test_python_takes_the_new_keyword(root):
    model, params = ldm_jax.load(str(root / "model"))
    depth = np.zeros((2, SIDE, SIDE, 1), np.float32)
    assert model.condition(params, depth=depth).concat.shape == (2, 4, 4, 1)
    assert (model.null(params, depth=depth).concat == 1).all()
    with pytest.raises(ValueError, match=r"depth must be \[B, H, W, 1\]"):
        model.condition(params, depth=depth[..., 0])


def test_plans_and_exports_know_the_shape_of_the_new_field(root):
    config = config_files.load_config(str(root / "depth.py"))
    run = prepare(config, abstract=True)
    assert run.batch_shapes["depth"].shape == (8, SIDE, SIDE, 1)
    model, params = ldm_jax.load(str(root / "model"))
    programs = make_programs(model, params, SIDE, run.sampling)
    assert programs["sampler"].inputs["depth"].shape[1:] == (SIDE, SIDE, 1)
    assert {"condition", "null"} <= set(programs)


def test_the_new_option_is_a_field_of_the_section_sampling(root):
    flags = ["--config.sampling.sampler=wobbly", "--config.sampling.wobble=0.25"]
    config = config_files.load_config(str(root / "depth.py"), flags)
    schema.check_config(config)
    assert make_sampling(**config.sampling).to_dict()["wobble"] == 0.25
    with pytest.raises(ValueError, match='has no "wobbel"; did you mean "wobble"'):
        config_files.load_config(
            str(root / "depth.py"), [*flags, flags[1].replace("le", "el")]
        )
