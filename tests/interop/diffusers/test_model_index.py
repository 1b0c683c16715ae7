# SPDX-License-Identifier: Apache-2.0
"""Which pipeline runs an exported model."""

import pytest

from ldm_jax.interop.diffusers.model_index import (
    OWN_PIPELINE,
    choose_pipeline,
    exported_code,
    model_index,
)
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.unet import UNet
from tests.interop import small

KL = Autoencoder(channels=32, channel_mult=(1, 1, 1, 1), latent_channels=4)
VQ = KL.clone(channel_mult=(1, 1), bottleneck="vq", latent_channels=3, num_codes=8)
PIXELS = Autoencoder(bottleneck="pixels")
BERT = dict(kind="text", tokenizer="bert", length=77)
CLIP = dict(kind="text", tokenizer="clip", encoder="clip")


def unet(in_channels, out_channels, **fields):
    fields = dict(small.PLAIN, in_channels=in_channels, **fields)
    return UNet(out_channels=out_channels, **fields)


CROSS = dict(context_dim=8, transformer_depth=1)
TEXT_UNET = unet(4, 4, **CROSS)
CASES = {
    "unconditional": ((dict(kind="none"), VQ, unet(3, 3), 1.0, True), "LDMPipeline"),
    "not square": ((dict(kind="none"), VQ, unet(3, 3), 1.0, False), OWN_PIPELINE),
    "pixels": ((dict(kind="none"), PIXELS, unet(3, 3), 1.0, False), "DDIMPipeline"),
    "context only": ((dict(kind="none"), KL, TEXT_UNET, 1.0, True), OWN_PIPELINE),
    "text": ((BERT, KL, TEXT_UNET, 0.18, True), "LDMTextToImagePipeline"),
    "text, f=2": ((BERT, VQ, unet(3, 3, **CROSS), 1.0, True), OWN_PIPELINE),
    "text of 32": (({**BERT, "length": 32}, KL, TEXT_UNET, 1.0, True), OWN_PIPELINE),
    "text of bytes": (
        ({**BERT, "tokenizer": "bytes"}, KL, TEXT_UNET, 1.0, True),
        OWN_PIPELINE,
    ),
    "CLIP": ((CLIP, KL, TEXT_UNET, 0.18, True), "StableDiffusionPipeline"),
    "CLIP, VQ": ((CLIP, VQ, unet(3, 3, **CROSS), 1.0, True), OWN_PIPELINE),
    "superres": (
        (dict(kind="superres"), VQ, unet(6, 3), 1.0, True),
        "LDMSuperResolutionPipeline",
    ),
    "superres, scaled": (
        (dict(kind="superres"), VQ, unet(6, 3), 0.5, True),
        OWN_PIPELINE,
    ),
    "superres, c=4": ((dict(kind="superres"), KL, unet(7, 4), 1.0, True), OWN_PIPELINE),
    "class": (
        (dict(kind="class", num_classes=3), VQ, unet(3, 3), 1.0, True),
        OWN_PIPELINE,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_pipeline_of_diffusers_is_taken_only_where_it_computes_the_same(case):
    arguments, expected = CASES[case]
    assert choose_pipeline(*arguments) == expected


def test_only_custom_pipelines_come_with_code():
    assert exported_code("LDMPipeline") == {}
    code = exported_code(OWN_PIPELINE)
    assert sorted(code) == ["conditioner/conditioner.py", "pipeline.py"]
    assert b"class LatentDiffusionPipeline" in code["pipeline.py"]


def test_components_that_a_model_lacks_are_null():
    models = {"unet": {"_class_name": "UNet2DModel"}}
    index = model_index(OWN_PIPELINE, models, dict(kind="none"), "PNDMScheduler")
    assert index["unet"] == ["diffusers", "UNet2DModel"]
    assert index["vqvae"] == index["tokenizer"] == [None, None]
