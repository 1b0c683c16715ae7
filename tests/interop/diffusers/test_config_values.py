# SPDX-License-Identifier: Apache-2.0
"""Values in configs of diffusers are refused by file and field, before weights."""

import json

import pytest

from ldm_jax.files.errors import UnreadableFile
from ldm_jax.interop.convert import import_model
from ldm_jax.interop.diffusers import read
from ldm_jax.interop.diffusers.config_values import Values, check_config_values
from tests.interop import small

# No field has any of these; numbers are 1 or more, and at most 100,000.
ODD = ["x", -1, float("nan"), 10**9, 10**400, ["a"], [], {"a": 1}, [float("nan")]]
KL = dict(small.FIRST_STAGE, bottleneck="kl")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """{name: pipeline}: one without a condition, and one of texts."""
    root = tmp_path_factory.mktemp("pipelines")
    plain = small.diffusion(dict(kind="none"), autoencoder=KL)
    for name, spec in {"plain": plain, "text": small.TEXT}.items():
        small.pipeline(root / name, spec)
    return root


@pytest.fixture
def refused(folders, monkeypatch):
    """Checks that a changed value is refused by file and field, unread."""
    read_weights = read.read_weights

    def check(pipeline, file, field, value):
        path = folders / pipeline / file

        def open_others(folder):
            """Networks are opened one after the other; a scheduler comes first."""
            assert folder != path.parent and "scheduler" not in file
            return read_weights(folder)

        monkeypatch.setattr(read, "read_weights", open_others)
        before = path.read_text()
        path.write_text(json.dumps({**json.loads(before), field: value}))
        try:
            with pytest.raises(UnreadableFile) as raised:
                import_model(folders / pipeline)
        finally:
            path.write_text(before)
        text = str(raised.value)
        assert file in text and field in text, (value, text)
        assert "Error: " not in text and "\n" not in text and len(text) < 600

    return check


@pytest.mark.parametrize(
    ("pipeline", "file", "field"),
    [
        ("plain", "vqvae/config.json", "block_out_channels"),
        ("plain", "vqvae/config.json", "down_block_types"),
        ("plain", "vqvae/config.json", "norm_num_groups"),
        ("plain", "vqvae/config.json", "scaling_factor"),
        ("plain", "vqvae/config.json", "layers_per_block"),
        ("plain", "vqvae/config.json", "sample_size"),
        ("text", "bert/config.json", "d_model"),
        ("text", "bert/config.json", "vocab_size"),
        ("text", "conditioner/config.json", "condition"),
    ],
)
def test_a_value_that_no_network_has_is_refused_unread(refused, pipeline, file, field):
    for value in ODD:
        if (field, value) in (("scaling_factor", 10**9), ("down_block_types", ["a"])):
            continue
        if (field, value) == ("condition", {"a": 1}):
            continue
        refused(pipeline, file, field, value)


@pytest.mark.parametrize(
    "field",
    [
        "num_train_timesteps",
        "beta_start",
        "beta_end",
        "beta_schedule",
        "prediction_type",
        "trained_betas",
        "clip_sample",
        "timestep_spacing",
        "variance_type",
    ],
)
def test_a_value_that_no_scheduler_has_is_refused(refused, field):
    texts = ("beta_schedule", "prediction_type", "timestep_spacing", "variance_type")
    for value in ODD:
        if value != "x" or field not in texts:
            refused("plain", "scheduler/scheduler_config.json", field, value)


@pytest.mark.parametrize("field", ["attention_head_dim", "block_out_channels"])
def test_heads_and_levels_must_be_of_one_number(refused, field):
    refused("text", "unet/config.json", field, [32, 32, 32])


def test_a_missing_field_is_named():
    table = {"d_model": Values(int, 1, 8, is_required=True)}
    with pytest.raises(ValueError, match=r"Bert\.d_model is missing"):
        check_config_values({}, table, "Bert")


def test_a_value_out_of_the_choices_lists_them():
    table = {"kind": Values(str, choices=("conv", "resnet"))}
    check_config_values({"kind": "conv"}, table)
    with pytest.raises(ValueError, match="kind must be one of conv, resnet: got 'x'"):
        check_config_values({"kind": "x"}, table)
