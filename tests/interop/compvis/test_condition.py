# SPDX-License-Identifier: Apache-2.0
"""Conditioning stages that say less than a user needs: the classes of layouts."""

import gzip
import json
import pathlib

from ldm_jax.conditions.registry import make_condition
from ldm_jax.interop.compvis.condition import condition_from_compvis
from ldm_jax.interop.compvis.read_config import spec_from_compvis
from ldm_jax.interop.compvis.state_dict import PREFIXES
from ldm_jax.interop.compvis.write_config import compvis_from_spec
from ldm_jax.interop.layouts import expected_shapes
from ldm_jax.interop.networks import network_rows
from tests.interop import published

LAYOUT = {
    "target": "ldm.modules.encoders.modules.BERTEmbedder",
    "params": {"n_embed": 512, "n_layer": 16, "vocab_size": 8192, "max_seq_len": 92},
}


def test_the_released_layout_model_knows_its_classes_by_name():
    """Paper's code: Dog is the 254th key of 340, and attributes add 352 each."""
    section = condition_from_compvis(LAYOUT, "coordinates_bbox", "crossattn", {})
    layout = make_condition(**section)
    assert layout.num_classes == 352 and layout.max_objects == 30
    dog = {"label": "Dog", "box": [0, 0, 1, 1]}
    group = {**dog, "is_group": True, "is_inside": True}
    tokens = layout.from_user(boxes=[dog, group])["tokens"][0]
    assert tokens[0] == 253 and tokens[3] == 253 + 352 * (1 + 8)


def test_a_vocabulary_too_small_for_the_released_classes_has_numbers_only():
    small = {**LAYOUT, "params": {**LAYOUT["params"], "vocab_size": 1024}}
    section = condition_from_compvis(small, "coordinates_bbox", "crossattn", {})
    layout = make_condition(**section)
    assert layout.num_classes == 600 and not layout.class_names


def test_a_model_that_reads_a_ready_made_context_retrieves():
    """Golden: the released 768 model has torch's Identity and a context of 768."""
    section = {"target": "torch.nn.Identity"}
    result = condition_from_compvis(section, "nix", "crossattn", {}, context_dim=768)
    assert result == {"kind": "retrieval", "width": 768}
    assert condition_from_compvis(section, "nix", None, {}) == {"kind": "none"}


def test_the_names_of_the_released_retrieval_model_are_all_known():
    """Golden: every tensor of the 768 model, none missing, none besides."""
    path = pathlib.Path(__file__).parent.parent / "keys" / "rdm768.json.gz"
    expected = json.loads(gzip.decompress(path.read_bytes()))
    unet = dict(in_channels=16, out_channels=16, model_channels=448, num_res_blocks=2)
    unet |= dict(channel_mult=[1, 2, 3, 4], attention_resolutions=[4, 2, 1])
    unet |= dict(num_head_channels=32, use_spatial_transformer=True)
    unet |= dict(transformer_depth=1, context_dim=768, image_size=48)
    params = {
        "linear_start": 0.0015,
        "linear_end": 0.015,
        "timesteps": 1000,
        "scale_factor": 0.22765929,
        "unet_config": {"params": unet},
        "first_stage_config": {"params": published.FIRST_STAGES["kl-f16"]},
        "cond_stage_config": {"target": "torch.nn.Identity"},
        "conditioning_key": "crossattn",
    }
    spec = spec_from_compvis({"model": {"params": params}})
    assert spec["condition"] == {"kind": "retrieval", "width": 768}
    actual = {
        PREFIXES[network] + name: list(shape)
        for network, rows in network_rows(spec).items()
        for name, shape in expected_shapes(rows, "compvis").items()
    }
    assert actual == {
        name: shape for name, shape in expected.items() if "loss" not in name
    }
    written = compvis_from_spec(spec)["model"]["params"]
    assert written["cond_stage_config"]["target"] == "torch.nn.Identity"
    again = spec_from_compvis({"model": {"params": written}})
    assert again["condition"] == spec["condition"]
