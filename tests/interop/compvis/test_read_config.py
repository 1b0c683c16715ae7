# SPDX-License-Identifier: Apache-2.0
"""Values of a config that are of another type are refused by its file and field."""

import copy
import datetime

import pytest
import yaml

from ldm_jax.interop.convert import import_model
from tests.interop import small

ODD = [datetime.date(2024, 1, 1), b"\x01\x02", ["a"], "x", {"a": 1}, float("nan")]
UNET = ("unet_config", "params")
STAGE = ("first_stage_config", "params", "ddconfig")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """(checkpoint, config) of a small model with classes."""
    folder = tmp_path_factory.mktemp("model")
    path = small.checkpoint(folder, small.CLASSES)
    return path, yaml.safe_load((folder / "model.yaml").read_text())


def refusal(source, tmp_path, place, value):
    """Imports with a changed value; returns the error."""
    path, config = source
    config = copy.deepcopy(config)
    section = config["model"]["params"]
    for name in place[:-1]:
        section = section[name]
    section[place[-1]] = value
    file = tmp_path / "odd.yaml"
    file.write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError) as raised:
        import_model(path, str(file))
    return str(raised.value)


@pytest.mark.parametrize(
    "place",
    [
        (*UNET, "model_channels"),
        (*UNET, "channel_mult"),
        (*UNET, "attention_resolutions"),
        (*UNET, "num_heads"),
        (*UNET, "context_dim"),
        (*STAGE, "ch"),
        (*STAGE, "ch_mult"),
        (*STAGE, "resolution"),
        ("cond_stage_config", "target"),
        ("cond_stage_config", "params", "embed_dim"),
        ("first_stage_config",),
        ("linear_start",),
        ("timesteps",),
        ("scale_factor",),
    ],
    ids=lambda place: ".".join(place),
)
def test_a_value_of_another_type_is_refused_by_file_and_field(source, tmp_path, place):
    for value in ODD:
        # A text and a section, as these should be.
        if (place[-1], value) in (("target", "x"), ("first_stage_config", {"a": 1})):
            continue
        text = refusal(source, tmp_path, place, value)
        assert "odd.yaml" in text and place[-1] in text, (value, text)
        assert "\n" not in text and "Error: " not in text and "model.ckpt" not in text


@pytest.mark.parametrize("value", [-0.0, 0.0, -1.0, 1e-320, float("inf"), 1e39])
def test_a_scale_that_cannot_divide_is_refused(source, tmp_path, value):
    text = refusal(source, tmp_path, ("scale_factor",), value)
    assert "odd.yaml: model.params.scale_factor" in text


@pytest.mark.parametrize(
    ("place", "choices"),
    [
        (("loss_type",), "l2, l1"),
        (("parameterization",), "eps, x0, v"),
        (("beta_schedule",), "linear, sqrt_linear, cosine, sqrt"),
        (("conditioning_key",), "concat, crossattn, hybrid, adm"),
        ((*STAGE, "attn_type"), "vanilla, vanilla-xformers, linear, none"),
    ],
    ids=lambda value: str(value[-1]),
)
def test_a_value_out_of_the_choices_is_refused_with_them(
    source, tmp_path, place, choices
):
    text = refusal(source, tmp_path, place, "bogus")
    assert "odd.yaml" in text and f"{place[-1]} of the config must be one" in text
    assert f"{choices}: got 'bogus'" in text and "model.ckpt" not in text
