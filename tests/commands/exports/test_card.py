# SPDX-License-Identifier: Apache-2.0
"""Folders for the Hub: the model card, and weights in half precision."""

import json

import numpy as np
import pytest

from ldm_jax.commands.export import export_weights
from ldm_jax.commands.exports.card import HubOptions
from ldm_jax.commands.import_ import import_weights
from ldm_jax.files.formats.png import save_png
from ldm_jax.interop.safetensors import read_safetensors
from tests.interop import small


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    root = tmp_path_factory.mktemp("model")
    import_weights(small.checkpoint(root / "source", small.CLASSES), str(root / "a"))
    return root / "a"


def test_half_precision_is_written_next_to_the_weights(model, tmp_path):
    out = tmp_path / "x"
    export_weights(str(model), str(out), "diffusers", hub=HubOptions(variant="fp16"))
    for folder in ("unet", "vqvae", "conditioner"):
        name = out / folder / "diffusion_pytorch_model"
        full = read_safetensors(f"{name}.safetensors")
        half = read_safetensors(f"{name}.fp16.safetensors")
        assert list(full) == list(half) and len(full) > 0
        for tensor, array in full.items():
            np.testing.assert_array_equal(half[tensor], array.astype(np.float16))
    assert 'variant="fp16"' in (out / "README.md").read_text()


def test_the_card_has_results_licence_and_the_newest_picture(model, tmp_path):
    results = tmp_path / "results.json"
    figures = {"fid": {"label": "FID", "value": 3.5, "spread": None}}
    results.write_text(json.dumps({"figures": figures, "num_images": 50}))
    for step, level in ((1, 10), (2, 200)):
        image = np.full((4, 4, 3), level, np.uint8)
        save_png(model / "images" / f"samples_{step:08d}.png", image)
    out = tmp_path / "digits"
    hub = HubOptions(licence="mit", results=str(results))
    export_weights(str(model), str(out), "diffusers", hub=hub)
    card = (out / "README.md").read_text()
    assert "# digits" in card and "license: mit" in card and "| FID | 3.5 |" in card
    from ldm_jax.files.formats.pictures import read_image

    assert read_image(out / "samples.png").max() == 200


def test_results_of_another_kind_are_refused_and_nothing_is_written(model, tmp_path):
    (tmp_path / "results.json").write_text('{"psnr": 3}')
    hub = HubOptions(results=str(tmp_path / "results.json"))
    with pytest.raises(ValueError, match=r"must be the results\.json of ldm-jax eval"):
        export_weights(str(model), str(tmp_path / "x"), "diffusers", hub=hub)
    assert not (tmp_path / "x").exists()


def test_options_of_the_hub_are_refused_elsewhere(model, tmp_path):
    with pytest.raises(ValueError, match="are options of --to=diffusers: got --to=npz"):
        hub = HubOptions(licence="mit")
        export_weights(str(model), str(tmp_path / "x.npz"), "npz", hub=hub)


def test_a_first_stage_has_a_card_with_its_last_reconstructions(model, tmp_path):
    stage = model / "autoencoder"
    image = np.full((4, 4, 3), 77, np.uint8)
    save_png(stage / "images" / "reconstructions_00000002.png", image)
    hub = HubOptions(licence="mit")
    export_weights(str(stage), str(tmp_path / "x"), "diffusers", hub=hub)
    text = (tmp_path / "x" / "README.md").read_text()
    assert "license: mit" in text and "VQModel.from_pretrained" in text
    from ldm_jax.files.formats.pictures import read_image

    assert read_image(tmp_path / "x" / "samples.png").max() == 77
    with pytest.raises(ValueError, match="--picture=draw samples a diffusion model"):
        drawn = HubOptions(picture="draw")
        export_weights(str(stage), str(tmp_path / "y"), "diffusers", hub=drawn)
    assert not (tmp_path / "y").exists()
