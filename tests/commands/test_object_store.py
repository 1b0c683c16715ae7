# SPDX-License-Identifier: Apache-2.0
"""Commands whose results are on an object store."""

import json

import jax
import numpy as np
import pytest
from etils import epath

import ldm_jax
from ldm_jax.cli import main

pytestmark = pytest.mark.store


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of eight pictures."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(8):
        picture = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{i}.png")
    return str(folder)


def test_samples_are_written_to_a_bucket(bucket, capsys):
    url = f"{bucket}/samples"
    command = ["sample", "--model=digits", "--label=3,5", "--num-steps=2"]
    assert main([*command, f"--out={url}"]) == 0
    names = {path.name for path in epath.Path(url).iterdir()}
    assert {"000000.png", "000001.png", "grid.png", "settings.json"} <= names
    settings = json.loads((epath.Path(url) / "settings.json").read_text())
    assert settings["condition"]
    assert main([*command, f"--out={url}"]) == 2
    assert "--out must be new" in capsys.readouterr().err


def test_a_model_is_written_to_a_bucket_and_read_from_there(bucket):
    """Identity: the parameters that were saved, to the bit."""
    model, params = ldm_jax.load("digits")
    ldm_jax.save(f"{bucket}/model", model, params)
    again, stored = ldm_jax.load(f"{bucket}/model")
    assert again.latent_scale == model.latent_scale
    jax.tree.map(np.testing.assert_array_equal, stored, params)


def test_statistics_of_a_set_are_written_to_a_bucket(bucket, photos):
    url = f"{bucket}/stats.npz"
    flags = ["--size=16x16", "--split=all", "--feature-network=random"]
    assert main(["stats", photos, *flags, f"--out={url}"]) == 0
    assert epath.Path(url).exists()
