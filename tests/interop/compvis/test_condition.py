# SPDX-License-Identifier: Apache-2.0
"""Conditioning stages that say less than a user needs: the classes of layouts."""

from ldm_jax.conditions.registry import make_condition
from ldm_jax.interop.compvis.condition import condition_from_compvis

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
    found = condition_from_compvis(section, "nix", "crossattn", {}, context_dim=768)
    assert found == {"kind": "retrieval", "width": 768}
    assert condition_from_compvis(section, "nix", None, {}) == {"kind": "none"}
