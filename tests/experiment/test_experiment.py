# SPDX-License-Identifier: Apache-2.0
"""Configs: overrides, refusals with the way out, and models made of sections."""

import inspect
import json
import pathlib

import pytest

from ldm_jax import cli
from ldm_jax.experiment import experiment
from ldm_jax.training.loop import train

ROOT = pathlib.Path(__file__).parents[2]
QUICKSTART = str(ROOT / "configs" / "quickstart.py")
DIFFUSION = f"{QUICKSTART}:stage=diffusion"


def test_an_override_takes_the_type_of_what_it_replaces():
    config = experiment.load_config(
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
    config = experiment.load_config(
        f"{ROOT / 'configs' / 'imagenet.py'}:f=8",
        [f"--config.{override}" for override in overrides],
    )
    experiment.check_config(config)
    assert config.unet.dtype == "bfloat16" and config.optimizer.clip_norm == 1.0
    model = experiment.make_latent_diffusion(config)
    assert (model.unet.dtype, model.unet.remat) == ("bfloat16", "full")
    text = experiment.load_config(
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
        experiment.load_config(DIFFUSION, [override])


def test_a_missing_config_file_says_where_it_looked():
    with pytest.raises(ValueError, match=r"no config file nowhere/x\.py"):
        experiment.load_config("nowhere/x.py")


def test_a_wrong_config_argument_names_the_right_ones():
    with pytest.raises(ValueError, match="one of: all, first_stage, diffusion"):
        experiment.load_config(f"{QUICKSTART}:stage=second")
    with pytest.raises(ValueError, match="this config takes stage=all"):
        experiment.load_config(f"{QUICKSTART}:f=8")
    ablation = ROOT / "configs" / "imagenet_f.py"
    with pytest.raises(ValueError, match="f is of type int: got 'eight'") as raised:
        experiment.load_config(f"{ablation}:f=eight")
    assert "Traceback" not in str(raised.value)


@pytest.mark.parametrize("stage", ["first_stage", "diffusion"])
def test_the_configs_of_this_package_pass_their_own_check(stage):
    config = experiment.load_config(f"{QUICKSTART}:stage={stage}")
    experiment.check_config(config)


@pytest.mark.parametrize(
    ("section", "field", "message"),
    [
        ("unet", "chanels", 'config.unet has no "chanels"; did you mean "channels"?'),
        ("latents", "dir", 'config.latents has no "dir"'),
        ("train", "evaluate_evry", 'did you mean "evaluate_every"?'),
    ],
)
def test_a_misspelt_field_in_a_config_file_is_refused(section, field, message):
    config = experiment.load_config(DIFFUSION).unlock()
    config[section][field] = 1
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        experiment.check_config(config)


def test_a_dtype_that_is_none_is_refused():
    config = experiment.load_config(DIFFUSION, ["--config.unet.dtype=bf16"])
    with pytest.raises(ValueError, match="must be one of float32, bfloat16, float16"):
        experiment.check_config(config)


def test_an_unknown_task_and_a_missing_section_are_refused():
    config = experiment.load_config(DIFFUSION).unlock()
    del config["unet"]
    with pytest.raises(ValueError, match="lacks the sections unet"):
        experiment.check_config(config)
    config.task = "second_stage"
    with pytest.raises(ValueError, match="must be one of first_stage, latent_diff"):
        experiment.check_config(config)


def test_latents_of_another_size_are_refused():
    config = experiment.load_config(DIFFUSION)
    resolved = experiment.resolve(config, 0.25, [(4, 16, 2), (8, 8, 2)])
    assert resolved.latents.scale == 0.25 and config.latents.scale is None
    with pytest.raises(
        ValueError, match=r"of \(8, 8, 2\): those in  are \(16, 16, 2\)"
    ):
        experiment.resolve(config, 0.25, [(16, 16, 2)])


def test_a_given_scale_is_not_replaced_by_the_measured_one():
    config = experiment.load_config(DIFFUSION, ["--config.latents.scale=1.0"])
    assert experiment.resolve(config, 0.25, [(8, 8, 2)]).latents.scale == 1.0


def test_settings_come_back_from_json_with_their_tuples(tmp_path):
    config = experiment.load_config(DIFFUSION, ["--config.latents.scale=2.0"])
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    read = experiment.read_config(str(tmp_path))
    assert read.to_dict() == config.to_dict()
    assert read.unet.channel_mult == config.unet.channel_mult == (1, 2)
    model = experiment.make_latent_diffusion(experiment.read_config(str(tmp_path)))
    assert model.latent_scale == 2.0
    assert experiment.latent_shape(str(tmp_path)) == (8, 8, 2)


def test_a_model_of_the_other_task_is_refused(tmp_path, capsys):
    config = experiment.load_config(DIFFUSION, ["--config.latents.scale=2.0"])
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    argv = [f"--model={tmp_path}", f"--out={tmp_path / 'out'}"]
    for command in ("latents", "reconstruct"):
        assert cli.main([command, *argv]) == 2
        assert "has no first stage" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_every_option_of_training_can_be_given_on_the_command_line():
    given_by_code = experiment.GIVEN_BY_CODE["train"]
    options = set(inspect.signature(train).parameters) - given_by_code
    assert options == set(experiment.load_config(DIFFUSION).train)


def test_a_directory_without_settings_is_no_model(tmp_path):
    with pytest.raises(ValueError, match="is no model directory"):
        experiment.load(str(tmp_path))
