# SPDX-License-Identifier: Apache-2.0
"""Model directories: settings and models come back as they were written."""

import json
import pathlib

import pytest

from ldm_jax import cli
from ldm_jax.experiment import models, stored_config
from ldm_jax.experiment.config import config_files

ROOT = pathlib.Path(__file__).parents[2]
DIFFUSION = f"{ROOT / 'configs' / 'quickstart.py'}:stage=diffusion"


def test_settings_come_back_from_json_with_their_tuples(tmp_path):
    config = config_files.load_config(DIFFUSION, ["--config.latents.scale=2.0"])
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    read = stored_config.read_config(str(tmp_path))
    assert read.to_dict() == config.to_dict()
    assert read.unet.channel_mult == config.unet.channel_mult == (1, 2)
    model = models.make_latent_diffusion(stored_config.read_config(str(tmp_path)))
    assert model.latent_scale == 2.0
    assert stored_config.latent_shape(str(tmp_path)) == (8, 8, 2)


def test_a_model_of_the_other_task_is_refused(tmp_path, capsys):
    config = config_files.load_config(DIFFUSION, ["--config.latents.scale=2.0"])
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    for command, out in (("latents", "out"), ("reconstruct", "out.png")):
        argv = [f"--model={tmp_path}", f"--out={tmp_path / out}"]
        assert cli.main([command, *argv]) == 2
        assert "has no first stage" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]


def test_a_directory_without_settings_is_no_model(tmp_path):
    for directory in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ValueError, match=r"has no config\.json; give"):
            stored_config.read_config(str(directory))


def test_the_models_in_a_quickstarts_directory_are_named(tmp_path):
    for name in ("first_stage", "diffusion", "latents"):
        (tmp_path / name).mkdir()
        if name != "latents":
            (tmp_path / name / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="inside it are diffusion, first_stage; give"):
        stored_config.read_config(str(tmp_path))
