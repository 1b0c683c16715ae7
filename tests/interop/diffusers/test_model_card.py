# SPDX-License-Identifier: Apache-2.0
"""The model card, read as the Hub reads it."""

import numpy as np
import pytest
import yaml

from ldm_jax.conditions.registry import CONDITIONS
from ldm_jax.interop.diffusers.model_card import INPUTS, CardDetails, model_card
from tests.interop import small

RESULTS = {
    "figures": {"fid": {"label": "FID", "value": 5.25, "spread": None}},
    "num_images": 5000,
}
DETAILS = CardDetails(
    title="digits",
    dataset="mnist",
    licence="apache-2.0",
    training={"steps": 900, "batch size": 64},
    results=RESULTS,
    picture=np.zeros((4, 4, 3), np.uint8),
)


def card(details=DETAILS, spec=small.CLASSES, pipeline="LatentDiffusionPipeline"):
    return model_card(spec, pipeline, {"unet": 1234567}, details, has_half=True)


def test_the_metadata_are_what_the_hub_takes():
    """Golden: huggingface_hub's own reader."""
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard(card()).data
    assert data.license == "apache-2.0" and data.library_name == "diffusers"
    assert data.model_name == "digits"
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value) == ("fid", 5.25)
    assert result.dataset_name == "mnist"


@pytest.mark.parametrize(
    ("kind", "task"),
    [("none", "unconditional-image-generation"), ("text", "text-to-image")],
)
def test_the_task_follows_from_the_condition(kind, task):
    spec = {**small.CLASSES, "condition": {"kind": kind}}
    metadata = yaml.safe_load(card(spec=spec).split("---\n")[1])
    assert metadata["pipeline_tag"] == task


def test_fields_that_a_spec_leaves_out_have_their_defaults():
    """As in a model that `ldm_jax.save` wrote."""
    stage = {"channels": 32, "latent_channels": 2}
    assert "| f | 8 |" in card(spec={**small.CLASSES, "autoencoder": stage})


def test_the_card_states_model_training_results_and_use():
    text = card()
    for line in (
        "# digits",
        "![samples](samples.png)",
        "| f | 2 |",
        "| latent scale | 0.5 |",
        "| parameters, unet | 1,234,567 |",
        "| images | mnist |",
        "| steps | 900 |",
        "| FID | 5.25 |",
        'from_pretrained("FOLDER", trust_remote_code=True)',
        'variant="fp16"',
    ):
        assert line in text


def test_what_is_not_known_is_left_out():
    text = card(CardDetails(), pipeline="LDMPipeline")
    assert "license" not in text and "Results" not in text and "samples.png" not in text
    assert "| images | not recorded |" in text and "trust_remote_code" not in text


@pytest.mark.parametrize(
    ("stage", "name", "line"),
    [
        (small.VQ, "VQModel", "z = stage.encode(images).latents  #"),
        (small.FIRST_STAGE, "AutoencoderKL", "stage.encode(images).latent_dist.mode()"),
    ],
)
def test_the_card_of_a_first_stage_states_f_and_how_to_encode(stage, name, line):
    spec = {"autoencoder": stage, "latent_scale": 1.0}
    text = card(spec=spec, pipeline=name)
    assert line in text and f"from diffusers import {name}" in text
    for row in ("| f | 2 |", "| parameters, unet | 1,234,567 |", "| FID | 5.25 |"):
        assert row in text
    metadata = yaml.safe_load(text.split("---\n")[1])
    assert metadata["tags"] == ["latent-diffusion", "autoencoder"]
    assert metadata["license"] == "apache-2.0" and "pipeline_tag" not in metadata
    compile(text.split("```python\n")[1].split("```")[0], name, "exec")


def test_the_card_of_a_hybrid_lists_the_inputs_of_its_parts():
    parts = {"what": {"kind": "class"}, "words": {"kind": "text"}}
    text = card(spec={**small.CLASSES, "condition": {"kind": "hybrid", "parts": parts}})
    assert "images that follow a class and a text." in text
    assert 'pipeline(class_labels=[0, 1], prompt="a dog", num_inference' in text


def test_the_card_knows_every_condition_but_hybrids():
    assert set(INPUTS) == set(CONDITIONS) - {"hybrid"}


def test_the_lines_of_use_can_be_parsed():
    for kind in INPUTS:
        text = card(spec={**small.CLASSES, "condition": {"kind": kind}})
        code = text.split("```python\n")[1].split("```")[0]
        compile(code, kind, "exec")
