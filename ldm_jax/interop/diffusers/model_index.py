# SPDX-License-Identifier: Apache-2.0
"""Chooses the pipeline that runs an exported model, and describes its components.

A pipeline of diffusers is chosen only where it computes what the model does; all other
models come with a custom pipeline (`exported/`), whose code is copied to their folder.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from ldm_jax.interop.diffusers.folders import OWN_CONDITIONER
from ldm_jax.interop.diffusers.write_config import versioned
from ldm_jax.interop.networks import condition_parts, token_transformer
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.unet import UNet

EXPORTED = pathlib.Path(__file__).with_name("exported")
OWN_PIPELINE = "LatentDiffusionPipeline"
# Components of our own pipeline that a model may lack.
OPTIONAL = ("vqvae", "bert", "text_encoder", "tokenizer", "conditioner")
# tokenizer of a condition -> class of transformers.
TOKENIZERS = {
    "bert": "BertTokenizer",
    "clip": "CLIPTokenizer",
    "bytes": "ByT5Tokenizer",
}


def choose_pipeline(
    condition: Mapping[str, Any],
    stage: Autoencoder,
    unet: UNet,
    latent_scale: float,
    is_square: bool,
) -> str:
    """Returns the class of the pipeline: diffusers' where it computes the same.

    Args:
      condition: section of a spec.
      stage: the first stage.
      unet: the denoiser.
      latent_scale: of the model.
      is_square: whether the model was trained on square images.
    """
    kind, has_stage = condition["kind"], stage.bottleneck != "pixels"
    c, channels = stage.embed_channels, unet.in_channels or unet.out_channels
    is_plain = channels == c == unet.out_channels and unet.context_dim is None
    if kind == "none" and is_plain and not has_stage:
        return "DDIMPipeline"
    if kind == "none" and is_plain and is_square:
        return "LDMPipeline"
    if kind == "text" and channels == c and has_stage:
        if condition.get("encoder") == "clip" and stage.bottleneck == "kl":
            return "StableDiffusionPipeline"
        # It divides sizes by 8, and pads texts to 77 tokens.
        is_published = (stage.f, token_transformer(condition).length) == (8, 77)
        if is_published and is_square and condition.get("tokenizer") == "bert":
            return "LDMTextToImagePipeline"
    # It halves the channels, and decodes what it has sampled without the scale.
    if kind == "superres" and (c, channels, latent_scale) == (3, 6, 1) and has_stage:
        return "LDMSuperResolutionPipeline"
    return OWN_PIPELINE


def model_index(
    pipeline: str,
    models: Mapping[str, Mapping[str, Any]],
    condition: Mapping[str, Any],
    scheduler: str,
) -> dict[str, Any]:
    """Makes model_index.json.

    Args:
      pipeline: from `choose_pipeline`.
      models: {folder: config.json}.
      condition: section of the spec.
      scheduler: its class.
    """
    index: dict[str, Any] = versioned({"_class_name": pipeline})
    index["scheduler"] = ["diffusers", scheduler]
    for name, config in models.items():
        library, class_name = "diffusers", config.get("_class_name")
        if name == "text_encoder":
            library, class_name = "transformers", "CLIPTextModel"
        elif name == "bert":
            library, class_name = "latent_diffusion", "LDMBertModel"
        elif class_name == OWN_CONDITIONER:
            library = "conditioner"  # the file in its folder
        index[name] = [library, class_name]
    text = text_part(condition)
    if text is not None:
        # Without the tokenizer's files: from_pretrained(folder, tokenizer=...).
        reader = TOKENIZERS[text.get("tokenizer", "bytes")]
        index["tokenizer"] = ["transformers", reader]
    if pipeline == "StableDiffusionPipeline":
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
    if pipeline == OWN_PIPELINE:
        index["_class_name"] = ["pipeline", pipeline]
        if text is not None and not has_tokenizer(text):
            del index["tokenizer"]
        index |= {name: [None, None] for name in OPTIONAL if name not in index}
    return index


def text_part(condition: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Returns the section of texts of a condition, if it reads any."""
    sections = condition_parts(condition).values()
    return next((part for part in sections if part["kind"] == "text"), None)


def has_tokenizer(condition: Mapping[str, Any]) -> bool:
    """Returns whether the tokenizer of a text condition can be exported."""
    return condition.get("tokenizer", "bytes") == "bytes" or bool(
        condition.get("vocab")
    )


def exported_code(pipeline: str) -> dict[str, bytes]:
    """Returns the code that a folder needs: {relative path: content}."""
    if pipeline != OWN_PIPELINE:
        return {}
    places = {
        "pipeline.py": "pipeline.py",
        "conditioner.py": "conditioner/conditioner.py",
    }
    return {place: (EXPORTED / name).read_bytes() for name, place in places.items()}
