# SPDX-License-Identifier: Apache-2.0
"""Overrides: values are read as the type of their field, or refused by its name."""

import math

import pytest
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ldm_jax.experiment.config import config_files
from ldm_jax.experiment.config.overrides import apply_overrides, read_value

DIFFUSION = "quickstart:stage=diffusion"


def value_of(override, config=DIFFUSION):
    """The value that a config has after an override, "section.field=value"."""
    value = config_files.load_config(config, [f"--config.{override}"])
    for name in override.partition("=")[0].split("."):
        value = value[name]
    return value


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("train.num_steps=1000", 1000),
        ("train.num_steps=1e3", 1000),
        ("train.num_steps=1_000", 1000),
        ("train.num_steps=1.5e1", 15),
        ("train.num_steps=0x10", 16),
        ("train.num_steps=-5", -5),  # refused by the loop, whose rule it is
        ("seed=1e23", 10**23),  # exact, which a float is not
        ("train.checkpoint_every=None", None),
        ("train.checkpoint_every=1e2", 100),
        ("train.checkpoint_seconds=1_0.5", 10.5),
        ("train.checkpoint_seconds=None", None),
        ("train.best=fid", "fid"),
        ("train.best=None", None),
        ("train.init_from=", ""),
        ("train.init_from=runs/a=b", "runs/a=b"),
        ("optimizer.learning_rate=1", 1.0),
        ("optimizer.learning_rate=inf", math.inf),
        ("latents.flip=false", False),
        ("latents.flip=0", False),
        ("latents.flip=TRUE", True),
        ("train.ema_on_host", True),
        ("unet.channel_mult=1,2,4", (1, 2, 4)),
        ("unet.channel_mult=(1, 2, 4)", (1, 2, 4)),
        ("unet.channel_mult=[1,2]", (1, 2)),
        ("unet.channel_mult=3", (3,)),
        ("unet.channel_mult=", ()),
        ("train.ema_of=unet", ("unet",)),
        ("train.ema_of=unet,conditioner", ("unet", "conditioner")),
        ("train.ema_of=('unet', 'conditioner')", ("unet", "conditioner")),
        ("latents.weights=1,2", (1.0, 2.0)),
        ("latents.image_size=1_6", 16),
        ("latents.image_size=16,32", (16, 32)),
        ("sampling.guidance_interval=200,800", (200, 800)),
        ("sampling.guidance_interval=None", None),
        ("unet.dtype=bfloat16", "bfloat16"),
        ("optimizer.schedule.warmup_steps=1e1", 10),
    ],
)
def test_a_value_is_read_as_the_type_of_its_field(override, value):
    got = value_of(override)
    assert got == value and type(got) is type(value)
    if isinstance(value, tuple):
        assert [type(part) for part in got] == [type(part) for part in value]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.num_steps=many",
            "config.train.num_steps must be a whole number: got '",
        ),
        (
            "train.num_steps=1.5",
            "must be a whole number: got '1.5' (not a whole number).",
        ),
        ("train.num_steps=1e999999999", "(out of range)."),
        ("train.num_steps=nan", "must be a whole number: got 'nan'"),
        (
            "train.num_steps=None",
            "config.train.num_steps must be a whole number: got '",
        ),
        ("train.num_steps=", "must be a whole number: got ''"),
        (
            "train.num_steps",
            "config.train.num_steps needs a value: --config.train.num_",
        ),
        ("train.checkpoint_every=no", "must be a whole number or None: got 'no'"),
        ("optimizer.learning_rate=fast", "must be a number: got 'fast'"),
        ("latents.flip=off", "must be true or false: got 'off' (one of: true, t, 1, f"),
        ("train.wandb=None", "(leave the value empty for none)"),
        ("unet.channel_mult=1,two", "must be values separated by commas: got '1,two'"),
        ("unet.channel_mult=1,2.5", "got '1,2.5' (not a whole number)"),
        ("latents.image_size=1,2,3", "whole number or values separated by commas: got"),
        ("sampling.guidance_interval=2", "(2 values are needed)"),
        (
            "unet=3",
            "config.unet is a section; set its fields: --config.unet.FIELD=VALUE",
        ),
        ("unet.dtype.kind=3", 'config.unet has no "dtype"'),
        (
            "prediction.x=3",
            "config.prediction has no fields: got config.pre",
        ),
        (
            "train.num_stps=7",
            'config.train has no "num_stps"; did you mean "num_steps"?',
        ),
        ("trian.num_steps=7", 'config has no "trian"; did you mean "train"?'),
        ("optimizer.schedule.warmup=7", 'did you mean "warmup_steps"?'),
        (
            "optimizer.networks=7",
            "cannot be set on a command line; set it in the confi",
        ),
    ],
)
def test_a_value_of_another_type_is_refused_with_the_name_of_its_field(
    override, message
):
    with pytest.raises(ValueError) as raised:
        value_of(override)
    assert message in str(raised.value)


def test_experiments_inside_of_a_config_take_the_same_fields():
    """The quickstart's config holds two experiments; defaults can be set in both."""
    assert value_of("diffusion.train.num_steps=2e3", "quickstart") == 2000
    assert value_of("diffusion.unet.remat=full", "quickstart") == "full"
    assert value_of("first_stage.train.checkpoint_every=None", "quickstart") is None
    assert value_of("classifier.num_neighbors=3", "quickstart") == 3
    with pytest.raises(ValueError, match='unet has no "remt"; did you'):
        value_of("diffusion.unet.remt=full", "quickstart")


def test_the_last_of_several_overrides_wins():
    overrides = ["--config.seed=1", "--config.seed=2"]
    assert config_files.load_config(DIFFUSION, overrides).seed == 2


def test_a_later_override_may_set_a_field_of_the_kind_that_an_earlier_one_chose():
    kind, depth = "--config.condition.kind=text", "--config.condition.depth=3"
    assert config_files.load_config(DIFFUSION, [kind, depth]).condition.depth == 3
    with pytest.raises(ValueError, match='condition has no "depth"'):
        config_files.load_config(DIFFUSION, [depth, kind])


def test_without_declared_fields_a_value_has_the_type_of_what_it_replaces():
    config = ConfigDict(dict(a=dict(b=1, c=placeholder(float), d=(1, "x"), e=None)))
    apply_overrides(config, ["--config.a.c=None"])
    assert config.a.c is None
    overrides = ["--config.a.b=1e2", "--config.a.c=1", "--config.a.d=2,'y'"]
    apply_overrides(config, overrides)
    assert config.a.b == 100 and config.a.d == (2, "y")
    assert config.a.c == 1.0 and isinstance(config.a.c, float)
    with pytest.raises(ValueError, match="e cannot be set on a command line"):
        apply_overrides(config, ["--config.a.e=1"])


def test_the_narrowest_type_is_taken_first():
    assert read_value("a", "1", (str, int)) == 1
    assert read_value("a", "x", (str, int)) == "x"
    assert read_value("a", "None", (str, type(None))) is None
