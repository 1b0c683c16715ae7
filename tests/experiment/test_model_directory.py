# SPDX-License-Identifier: Apache-2.0
"""A model directory with damaged settings is answered in one sentence."""

import json
import pathlib
import re
import shutil

import numpy as np
import pytest

from ldm_jax.commands.import_ import import_weights
from ldm_jax.experiment.config import config_files
from ldm_jax.experiment.model_directory import load
from ldm_jax.experiment.stored_config import read_config
from ldm_jax.files.errors import UnreadableFile
from ldm_jax.pretrained import FOLDER
from tests.interop import small


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"task": "latent_diffusion", "unet": ',
        '{"task": "latent_diffusion", "unet": null}',
        '{"task": null}',
        '{"task": "latent_diffusion", "unet": []}',
        '{"task": "latent_diffusion"}',
        "[]",
        "[" * 10**5,
        "<!doctype html>",
    ],
    ids=str,
)
def test_damaged_settings_are_refused_by_name(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config") as error:
        read_config(str(tmp_path))
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("section", ["unet", "autoencoder", "condition"])
@pytest.mark.parametrize("value", [None, 3, "x"])
def test_a_section_that_holds_no_settings_is_refused(tmp_path, section, value):
    config = {"task": "latent_diffusion", section: value}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config"):
        read_config(str(tmp_path))


WRONG_TYPES = {
    "unet": [1, 2],
    "unet.channels": "32",
    "unet.channel_mult": [1, "2"],
    "unet.dtype": {},
    "autoencoder.embed_dim": 4.5,
    "autoencoder.mid_attention": 1,
    "condition.class_names": [1, 2],
    "condition.kind": ["class"],
    "mesh.data": None,
    "optimizer.schedule": [1],
    "sampling.eta": "a",
    "schedule.kind": {},
    "schedule.num_timesteps": 1000.0,
    "train.num_steps": "x",
}


@pytest.mark.parametrize("field", WRONG_TYPES)
def test_a_value_of_another_type_is_refused_by_file_and_field(tmp_path, field):
    content = json.loads((FOLDER / "digits" / "config.json").read_text())
    section, _, name = field.rpartition(".")
    (content[section] if section else content)[name] = WRONG_TYPES[field]
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(
        UnreadableFile, match=rf"{tmp_path}/config\.json: config\.{field} must be .*got"
    ):
        read_config(str(tmp_path))


@pytest.mark.parametrize("section", ["", "unet", "condition"])
def test_a_name_with_a_dot_is_refused_by_name(tmp_path, section):
    content = json.loads((FOLDER / "digits" / "config.json").read_text())
    (content[section] if section else content)["a.b"] = 1
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(UnreadableFile, match=r'config(\.\w+)? has no "a\.b"'):
        read_config(str(tmp_path))


BELIEVED = {
    "latents.scale": (0, -1.0, float("nan"), float("inf"), "0.2", True, []),
    "latents.image_size": (0, -16, 10**9, 16.5, "16", (16, 16, 16), (16, 10**9), True),
    "sampling.sampler": ("../../x", 3, ["ddim"]),
    "sampling.grid": ("bogus",),
    "sampling.num_steps": (0, -1),
    "condition.class_names": (["a"] * 11,),
    "condition.kind": ("x", {}),
    "schedule.kind": ("linear\n", "a\u2028b"),
    "schedule.num_timesteps": (10**8, 0),
    "unet.num_res_blocks": (10**7,),
}


@pytest.mark.parametrize(
    ("name", "value"), [(n, v) for n, values in BELIEVED.items() for v in values]
)
def test_a_value_that_no_model_has_is_refused_by_name(tmp_path, name, value):
    config = config_files.load_config("quickstart:stage=diffusion")
    config = json.loads(config.to_json())
    section, field = name.split(".")
    config["latents"]["scale"] = 1.0
    config[section][field] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnreadableFile, match=r"config\.json") as error:
        load(str(tmp_path))
    message = str(error.value)
    assert field in message and len(message.splitlines()) == 1 and len(message) < 600


@pytest.mark.parametrize(
    ("folder", "field", "value"),
    [
        ("scheduler", "num_train_timesteps", 10**8),
        ("unet", "layers_per_block", 10**7),
        ("unet", "block_out_channels", [2**40]),
        ("unet", "down_block_types", ["DownBlock2D"] * 10**5),
    ],
)
def test_what_no_model_has_is_refused_before_it_is_imported(
    tmp_path, folder, field, value
):
    small.pipeline(tmp_path / "source", small.PIXELS)
    path = next((tmp_path / "source" / folder).glob("*config.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(UnreadableFile, match="source") as error:
        import_weights(str(tmp_path / "source"), str(tmp_path / "imported"))
    assert len(str(error.value)) < 3100
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("condition.num_classes", 12, r"conditioner/embedding: \(11, 64\), expected"),
        ("condition.width", 32, r"conditioner/embedding: .* expected \(11, 32\)"),
        ("unet.num_res_blocks", 3, "missing, expected"),
        ("autoencoder.latent_channels", 3, "autoencoder/"),
    ],
)
def test_settings_of_another_model_than_the_parameters_are_refused(
    digits, name, value, message
):
    """They would be found by the first step, with names of a library."""
    section, field = name.split(".")
    for path in digits.rglob("config.json"):  # of the model, and of its first stage
        settings = json.loads(path.read_text())
        if section in settings:
            settings[section][field] = value
        path.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="must be those of the model in its") as error:
        load(str(digits))
    assert re.search(message, str(error.value))


def test_a_network_that_cannot_be_made_is_refused_by_file(digits):
    path = digits / "config.json"
    settings = json.loads(path.read_text())
    settings["unet"]["num_heads"] = 7
    path.write_text(json.dumps(settings))
    with pytest.raises(UnreadableFile, match=rf"{path}.*must divide the channels"):
        load(str(digits))


def test_a_missing_parameter_is_refused(digits):
    arrays = dict(np.load(digits / "params.npz"))
    del arrays["unet/conv_out/bias"]
    np.savez(digits / "params.npz", **arrays)
    with pytest.raises(ValueError, match="unet/conv_out/bias: missing, expected"):
        load(str(digits))


@pytest.fixture
def digits(tmp_path):
    """A copy of the model of the package."""
    return pathlib.Path(shutil.copytree(FOLDER / "digits", tmp_path / "digits"))


CONTRADICTIONS = {
    "num_groups": 16,
    "tanh_out": True,
    "bottleneck": "vq",
    "channel_mult": [1, 2],
    "dropout": 0.5,
}


@pytest.mark.parametrize("field", CONTRADICTIONS)
def test_a_first_stage_with_other_settings_than_the_model_is_refused(tmp_path, field):
    """Shapes of parameters do not show groups of norms, or a tanh at the end."""
    shutil.copytree(FOLDER / "digits", tmp_path / "model")
    path = tmp_path / "model" / "autoencoder" / "config.json"
    content = json.loads(path.read_text())
    content["autoencoder"][field] = CONTRADICTIONS[field]
    if field == "bottleneck":
        content["autoencoder"]["num_codes"] = 8
    path.write_text(json.dumps(content))
    with pytest.raises(UnreadableFile, match=rf"autoencoder\.{field} is .*there") as e:
        load(str(tmp_path / "model"))
    assert str(path) in str(e.value) and len(str(e.value).splitlines()) == 1


def test_a_first_stage_may_save_memory_in_another_way_than_the_model(tmp_path):
    """Neither how it was initialised nor what is recomputed changes a result."""
    shutil.copytree(FOLDER / "digits", tmp_path / "model")
    path = tmp_path / "model" / "autoencoder" / "config.json"
    content = json.loads(path.read_text())
    content["autoencoder"]["remat"] = "full"
    content["autoencoder"]["embed_dim"] = content["autoencoder"]["latent_channels"]
    path.write_text(json.dumps(content))
    model, _ = load(str(tmp_path / "model"))
    assert model.autoencoder.remat == "none"
