# SPDX-License-Identifier: Apache-2.0
"""Our parameters to diffusers folders."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from ldm_jax.files.writing import write_bytes, write_json
from ldm_jax.interop.diffusers import write_config as configs
from ldm_jax.interop.diffusers.read import OURS, TEXT_KINDS, form_of
from ldm_jax.interop.layouts import export_flat
from ldm_jax.interop.networks import make_unet, network_rows, token_transformer
from ldm_jax.interop.weight_files import write_safetensors
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.clip import ClipText
from ldm_jax.types import PyTree


def export_diffusers(
    folder,
    spec: Mapping[str, Any],
    params: PyTree,
    image_size: int | tuple[int, int] = 256,
) -> None:
    """Writes a diffusers pipeline folder: configs, weights and scheduler.

    A first stage or a text encoder alone is a folder of that one model.

    What diffusers has no class for, such as a class embedding, is written beside, in
    conditioner/, under its CompVis names.

    Args:
      folder: made if it is missing.
      spec: see `networks`.
      params: {"autoencoder", "unet", "conditioner"}, as many as the model has.
      image_size: side of the images the model was trained on, in pixels, or (height,
        width).

    Raises:
      CannotExpress: diffusers has no class that computes what the model does; nothing
        has been written then.
    """
    folder = pathlib.Path(folder)
    tensors = {}
    for network, rows in network_rows(spec).items():
        flat: dict[str, Any] = dict(
            traverse_util.flatten_dict(params[network], sep="/")
        )
        tensors[network] = export_flat(flat, rows, form_of(spec, network))
    if "autoencoder" not in spec:  # a text encoder alone
        models = _conditioner_models(spec["condition"], tensors["conditioner"])
        ((config, its_tensors),) = models.values()
        _write_model(folder, config, its_tensors)
        _write_tokenizer(folder, spec["condition"])
        return
    autoencoder = Autoencoder(**spec["autoencoder"])
    models = {}  # folder -> (config, tensors)
    if "autoencoder" in tensors:
        scale = spec["latent_scale"]
        config = configs.autoencoder_config(autoencoder, scale, _side(image_size))
        models["vqvae"] = config, tensors["autoencoder"]
    if "unet" not in tensors:
        _write_model(folder, *models["vqvae"])
        return
    config = configs.unet_config(make_unet(spec), _side(image_size, autoencoder.f))
    models["unet"] = config, tensors["unet"]
    models |= _conditioner_models(spec["condition"], tensors.get("conditioner", {}))
    if "text_encoder" in models:  # Stable Diffusion's name for it
        models["vae"] = models.pop("vqvae")
    clip = spec.get("sampling", {}).get("clip")
    scheduler = configs.scheduler_config(spec["schedule"], spec["prediction"], clip)
    for name, (config, its_tensors) in models.items():
        _write_model(folder / name, config, its_tensors)
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    _write_tokenizer(folder / "tokenizer", spec["condition"])
    index = _model_index(spec, models)
    if index is not None:
        write_json(folder / "model_index.json", index)


def _side(image_size, f: int = 1):
    """Divides a size by f; a side where both are one, as diffusers has it."""
    sides = [image_size] if isinstance(image_size, int) else list(image_size)
    sides = [side // f for side in sides]
    return sides[0] if len(set(sides)) == 1 else sides


def _conditioner_models(condition, tensors):
    """{folder: (config, tensors)} of what encodes the condition, if anything does."""
    kind, models = condition["kind"], {}
    if kind in TEXT_KINDS:
        model = token_transformer(condition)
        config = configs.token_transformer_config(model)
        if isinstance(model, ClipText):
            return {"text_encoder": (config, tensors)}
        # The output layer that the class declares and the pipeline never uses.
        logits = np.zeros((model.vocab_size, model.width), np.float32)
        unused = {"to_logits.weight": logits, "to_logits.bias": logits[:, 0]}
        models["bert"] = config, tensors | unused
        tensors = {}
    if kind not in ("none", "text", "superres"):
        models["conditioner"] = {"_class_name": OURS, **condition}, tensors
    return models


def _write_tokenizer(folder: pathlib.Path, condition) -> None:
    """Copies the tokenizer's files, if the model has them, and says what reads them."""
    names = {
        "bert": ("BertTokenizer", {"vocab": "vocab.txt"}),
        "clip": ("CLIPTokenizer", {"vocab": "vocab.json", "merges": "merges.txt"}),
    }
    if condition["kind"] != "text" or not condition.get("vocab"):
        return
    class_name, files = names[condition["tokenizer"]]
    config = {
        "tokenizer_class": class_name,
        "model_max_length": token_transformer(condition).length,
    }
    write_json(folder / "tokenizer_config.json", config)
    for field, name in files.items():
        write_bytes(folder / name, pathlib.Path(condition[field]).read_bytes())


def _model_index(spec, folders) -> dict[str, Any] | None:
    """Describes the pipeline that runs the model; None where diffusers has none."""
    kind = spec["condition"]["kind"]
    pipelines = {
        "none": "LDMPipeline" if "vqvae" in folders else "DDIMPipeline",
        "text": "LDMTextToImagePipeline",
        "superres": "LDMSuperResolutionPipeline",
    }
    if kind not in pipelines or (kind == "none" and make_unet(spec).context_dim):
        return None
    is_clip = "text_encoder" in folders
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionPipeline" if is_clip else pipelines[kind],
        "_diffusers_version": configs.VERSION,
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    for name in ("vqvae", "vae", "unet"):
        if name in folders:
            index[name] = ["diffusers", folders[name][0]["_class_name"]]
    # Without its files: from_pretrained(folder, tokenizer=...).
    if is_clip:
        index["text_encoder"] = ["transformers", "CLIPTextModel"]
        index["tokenizer"] = ["transformers", "CLIPTokenizer"]
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
    elif kind == "text":
        index["bert"] = ["latent_diffusion", "LDMBertModel"]
        index["tokenizer"] = ["transformers", "BertTokenizer"]
    return index


def _write_model(folder: pathlib.Path, config, tensors) -> None:
    is_theirs = "_diffusers_version" in config
    name = "diffusion_pytorch_model" if is_theirs else "model"
    if tensors:
        write_safetensors(folder / f"{name}.safetensors", tensors)
    write_json(folder / "config.json", config)
