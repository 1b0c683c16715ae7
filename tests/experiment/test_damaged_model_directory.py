# SPDX-License-Identifier: Apache-2.0
"""A model directory with damaged settings is answered in one sentence."""

import json

import pytest

from ldm_jax.experiment.model_directory import read_config


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
