# SPDX-License-Identifier: Apache-2.0
"""The folder of each network is found by the pipeline's index, or by its name."""

import json
import shutil

import jax
import numpy as np
import pytest

from ldm_jax.interop.convert import import_model
from ldm_jax.interop.diffusers.folders import find_folders
from tests.interop import small


def bias(imported):
    """The first bias of the denoiser."""
    return imported.params["unet"]["conv_in"]["bias"]


@pytest.fixture
def pipeline(tmp_path):
    """A pipeline with unet/, and unet_ema/ and unet_old/ with other weights."""
    params = small.pipeline(tmp_path, small.diffusion(dict(kind="none")))
    for name, scale in (("unet_ema", 2), ("unet_old", 3)):
        other = {
            **params,
            "unet": jax.tree.map(lambda x, s=scale: s * x, params["unet"]),
        }
        folder = tmp_path / "other"
        small.export_model(
            folder, "diffusers", small.diffusion(dict(kind="none")), other, image_size=8
        )
        shutil.move(folder / "unet", tmp_path / name)
        shutil.rmtree(folder)
    return tmp_path, params["unet"]["conv_in"]["bias"]


def test_a_pipelines_index_chooses_its_folders(pipeline):
    """unet_old/ is not read, and named; unet_ema/ holds the average of unet/."""
    folder, raw = pipeline
    for which, scale in (("ema", 2), ("raw", 1)):
        imported = import_model(folder, which=which)
        assert imported.used == which
        np.testing.assert_array_equal(bias(imported), scale * raw)
        assert imported.notes == (
            "Not read, as model_index.json does not list them: unet_old.",
            "The folder asks for 'DDIMScheduler': sampling.sampler is \"ddim\".",
        )


def test_without_an_index_a_network_and_its_average_are_distinguished_by_name(pipeline):
    folder, raw = pipeline
    (folder / "model_index.json").unlink()
    with pytest.raises(ValueError, match=r"one unet: .*unet_ema/ .*unet_old/"):
        import_model(folder)
    shutil.rmtree(folder / "unet_old")
    np.testing.assert_array_equal(bias(import_model(folder)), 2 * raw)
    np.testing.assert_array_equal(bias(import_model(folder, which="raw")), raw)


def test_averages_alone_are_averages(pipeline):
    folder, _ = pipeline
    for name in ("unet", "unet_old"):
        shutil.rmtree(folder / name)
    (folder / "model_index.json").unlink()
    assert import_model(folder).used == "ema"


@pytest.mark.parametrize("entry", [["diffusers", "UNet2DModel"], ["diffusers"]])
def test_a_part_that_the_index_lists_and_is_not_there_is_named(pipeline, entry):
    folder, _ = pipeline
    index = json.loads((folder / "model_index.json").read_text())
    index["unet_2"] = entry
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"model_index\.json .*unet_2"):
        find_folders(folder)
