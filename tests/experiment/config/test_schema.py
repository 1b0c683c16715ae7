# SPDX-License-Identifier: Apache-2.0
"""Configs: overrides, refusals with the way out, and models made of sections."""

import dataclasses
import pathlib

import pytest

from ldm_jax.experiment import models
from ldm_jax.experiment.config import config_files, schema
from ldm_jax.training.options import LoopOptions

ROOT = pathlib.Path(__file__).parents[3]
QUICKSTART = str(ROOT / "configs" / "quickstart.py")
DIFFUSION = f"{QUICKSTART}:stage=diffusion"


def test_an_override_takes_the_type_of_what_it_replaces():
    config = config_files.load_config(
        DIFFUSION,
        [
            "--config.train.num_steps=7",
            "--config.unet.channel_mult=(1, 2, 4)",
            "--config.latents.scale=0.5",
            "--config.optimizer.learning_rate=1",
        ],
    )
    assert config.train.num_steps == 7
    assert config.unet.channel_mult == (1, 2, 4)
    assert config.latents.scale == 0.5
    assert isinstance(config.optimizer.learning_rate, float)


def test_what_a_file_leaves_at_its_default_can_be_set():
    """Half precision and recomputation are one flag for every config of the paper."""
    overrides = ["unet.dtype=bfloat16", "unet.remat=full", "autoencoder.dtype=bfloat16"]
    overrides += ["optimizer.clip_norm=1", "condition.has_null=False"]
    config = config_files.load_config(
        f"{ROOT / 'configs' / 'imagenet.py'}:f=8",
        [f"--config.{override}" for override in overrides],
    )
    schema.check_config(config)
    assert config.unet.dtype == "bfloat16" and config.optimizer.clip_norm == 1.0
    model = models.make_latent_diffusion(config)
    assert (model.unet.dtype, model.unet.remat) == ("bfloat16", "full")
    text = config_files.load_config(
        str(ROOT / "configs" / "text.py"), ["--config.condition.dtype=bfloat16"]
    )
    assert text.condition.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.train.seed=1", 'config.train has no "seed"'),
        ("--config.unet.name=a", 'config.unet has no "name"'),
        ("--config.unet.dtyp=bfloat16", 'did you mean "dtype"'),
        ("--config.mesh.devices=1", 'config.mesh has no "devices"'),
        ("--config.train.num_stps=7", 'did you mean "num_steps"'),
        ("--config.trian.num_steps=7", 'did you mean "train"'),
        ("--config.train.num_steps=many", "invalid literal for int"),
    ],
)
def test_a_wrong_override_is_refused_with_a_hint(override, message):
    with pytest.raises(ValueError, match=message):
        config_files.load_config(DIFFUSION, [override])


def test_an_error_for_a_missing_config_file_names_the_directory():
    with pytest.raises(ValueError, match=r"no config file nowhere/x\.py"):
        config_files.load_config("nowhere/x.py")


def test_a_wrong_config_argument_names_the_right_ones():
    with pytest.raises(ValueError, match="one of: all, first_stage, diffusion"):
        config_files.load_config(f"{QUICKSTART}:stage=second")
    with pytest.raises(ValueError, match="this config takes stage=all"):
        config_files.load_config(f"{QUICKSTART}:f=8")
    ablation = ROOT / "configs" / "imagenet_f.py"
    with pytest.raises(ValueError, match="f is of type int: got 'eight'") as raised:
        config_files.load_config(f"{ablation}:f=eight")
    assert "Traceback" not in str(raised.value)


@pytest.mark.parametrize("stage", ["first_stage", "diffusion"])
def test_the_configs_of_this_package_pass_their_own_check(stage):
    config = config_files.load_config(f"{QUICKSTART}:stage={stage}")
    schema.check_config(config)


@pytest.mark.parametrize(
    ("section", "field", "message"),
    [
        ("unet", "chanels", 'config.unet has no "chanels"; did you mean "channels"?'),
        ("latents", "dir", 'config.latents has no "dir"'),
        ("train", "evaluate_evry", 'did you mean "evaluate_every"?'),
    ],
)
def test_a_misspelt_field_in_a_config_file_is_refused(section, field, message):
    config = config_files.load_config(DIFFUSION).unlock()
    config[section][field] = 1
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        schema.check_config(config)


def test_a_dtype_that_is_none_is_refused():
    config = config_files.load_config(DIFFUSION, ["--config.unet.dtype=bf16"])
    with pytest.raises(ValueError, match="must be one of float32, bfloat16, float16"):
        schema.check_config(config)


def test_an_unknown_task_and_a_missing_section_are_refused():
    config = config_files.load_config(DIFFUSION).unlock()
    del config["unet"]
    with pytest.raises(ValueError, match="it lacks unet; add them"):
        schema.check_config(config)
    config.task = "second_stage"
    with pytest.raises(ValueError, match="must be one of classifier, first_stage"):
        schema.check_config(config)


def test_every_option_of_training_can_be_given_on_the_command_line():
    options = {field.name for field in dataclasses.fields(LoopOptions)}
    assert options == set(config_files.load_config(DIFFUSION).train)


def test_the_home_directory_is_expanded_in_every_field(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/me")
    fields = {
        "first_stage": "images.dataset images.data_dir images.manual_dir lpips.file "
        "train.init_from",
        "diffusion": "latents.directory latents.first_stage evaluation.reference "
        "train.init_from",
    }
    for stage, names in fields.items():
        flags = [f"--config.{name}=~/a,~/b" for name in names.split()]
        config = config_files.load_config(f"quickstart:stage={stage}", flags)
        for name in names.split():
            section, field = name.split(".")
            assert config[section][field] == "/home/me/a,/home/me/b"
    file = tmp_path / "a.py"
    file.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    return ConfigDict(dict(a=dict(b='~/c', d='a ~ b', e=('~/f', 1))))\n"
    )
    config = config_files.load_config(str(file))
    assert config.a.b == "/home/me/c" and config.a.d == "a ~ b"
