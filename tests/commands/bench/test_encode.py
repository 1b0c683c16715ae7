# SPDX-License-Identifier: Apache-2.0
"""The benchmark of encoding runs on generated files and on a user's folder."""

import json

import numpy as np
from PIL import Image

from ldm_jax.cli import main

CONFIG = "--config=flowers_first_stage"


def test_the_rates_are_printed_and_stored(tmp_path, capsys):
    out = tmp_path / "history.jsonl"
    sizes = ["--source-size=32", "--records=8", "--batch-size=8"]
    assert main(["bench", "encode", CONFIG, *sizes, f"--json={out}"]) == 0
    printed = capsys.readouterr().out
    for word in ("files", "per core", "encoder", "latents", "the slower part"):
        assert word in printed
    figures = json.loads(out.read_text())["figures"]
    assert set(figures) == {"files", "files per core", "encoder", "latents"}
    assert all(rate > 0 for rate in figures.values())


def test_a_folder_of_pictures_is_measured(tmp_path, capsys):
    for number in range(3):
        image = np.full((40, 50, 3), 40 * number, np.uint8)
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    images, size = f"--images={tmp_path}", "--config.transform.image_size=16"
    assert main(["bench", "encode", CONFIG, size, images, "--batch-size=8"]) == 0
    assert "encoder" in capsys.readouterr().out


def test_a_misspelt_field_of_the_config_is_refused(capsys):
    flag = "--config.transform.image_sise=16"
    assert main(["bench", "encode", CONFIG, flag]) == 2
    assert "image_sise" in capsys.readouterr().err


def test_a_missing_folder_is_refused_before_anything_is_measured(tmp_path, capsys):
    images = f"--images={tmp_path}/none"
    assert main(["bench", "encode", CONFIG, images]) == 2
    captured = capsys.readouterr()
    assert f"{tmp_path}/none" in captured.err and "encoder" not in captured.out


def test_a_config_without_a_first_stage_is_refused(capsys):
    assert main(["bench", "encode", "--config=celebahq"]) == 2
    message = "--config must be of a first stage: got a latent_diffusion."
    assert message in capsys.readouterr().err
