# SPDX-License-Identifier: Apache-2.0
"""Exports models as folders of diffusers."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from ldm_jax.files.paths import PathLike
from ldm_jax.files.writing import write_bytes, write_json
from ldm_jax.interop.diffusers import write_config as configs
from ldm_jax.interop.diffusers.folders import OWN_CONDITIONER
from ldm_jax.interop.diffusers.read import TEXT_KINDS, form_of
from ldm_jax.interop.diffusers.scheduler import write_scheduler
from ldm_jax.interop.layouts import export_flat
from ldm_jax.interop.networks import make_unet, network_rows, token_transformer
from ldm_jax.interop.safetensors import write_safetensors
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.clip import ClipText
from ldm_jax.types import PyTree

Size = int | tuple[int, int]


class Description(NamedTuple):
    """The configs of a folder of diffusers.

    Attributes:
      models: {folder, "" for the folder itself: config.json}.
      networks: {folder: our network whose tensors it holds}; a folder that only holds
        a config has none.
      scheduler: scheduler_config.json; None for one model alone.
      index: model_index.json; None where diffusers has no pipeline for the model.
    """

    models: dict[str, dict[str, Any]]
    networks: dict[str, str]
    scheduler: dict[str, Any] | None = None
    index: dict[str, Any] | None = None


def describe_model(spec: Mapping[str, Any], image_size: Size = 256) -> Description:
    """Describes a model (see `networks`) as diffusers does.

    Raises:
      CannotExpress: diffusers has no class that computes what the model does.
    """
    if "autoencoder" not in spec:  # a text encoder alone
        config = configs.token_transformer_config(token_transformer(spec["condition"]))
        return Description({"": config}, {"": "conditioner"})
    stage = Autoencoder(**spec["autoencoder"])
    models, networks = {}, {}
    if stage.bottleneck != "pixels":
        scale = spec["latent_scale"]
        config = configs.autoencoder_config(stage, scale, _side(image_size))
        if "unet" not in spec:
            return Description({"": config}, {"": "autoencoder"})
        models["vqvae"], networks["vqvae"] = config, "autoencoder"
    config = configs.unet_config(make_unet(spec), _side(image_size, stage.f))
    models["unet"], networks["unet"] = config, "unet"
    conditioner = _conditioner_models(spec["condition"])
    models |= conditioner
    if conditioner and "conditioner" in network_rows(spec):
        networks[next(iter(conditioner))] = "conditioner"
    if "text_encoder" in models:  # Stable Diffusion's name for the first stage
        models["vae"], networks["vae"] = models.pop("vqvae"), networks.pop("vqvae")
    scheduler = write_scheduler(
        spec["schedule"], spec["prediction"], spec.get("sampling", {})
    )
    index = _model_index(spec, models)
    return Description(models, networks, configs.versioned(scheduler), index)


def export_diffusers(
    folder: PathLike,
    spec: Mapping[str, Any],
    params: PyTree,
    image_size: Size = 256,
) -> None:
    """Writes a diffusers pipeline folder: configs, weights and scheduler.

    A first stage or a text encoder alone is a folder of that one model. What diffusers
    has no class for, such as a class embedding, is written to conditioner/, under its
    CompVis names.

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
    description = describe_model(spec, image_size)
    rows = network_rows(spec)
    for name, config in description.models.items():
        tensors: dict[str, np.ndarray] = {}
        network = description.networks.get(name)
        if network is not None:
            flat: Any = traverse_util.flatten_dict(params[network], sep="/")
            tensors = export_flat(flat, rows[network], form_of(spec, network))
        _write_model(folder / name, config, tensors | _unused_tensors(config))
    place = folder / "tokenizer" if description.scheduler else folder
    _write_tokenizer(place, spec.get("condition", {"kind": "none"}))
    if description.scheduler is not None:
        scheduler = folder / "scheduler" / "scheduler_config.json"
        write_json(scheduler, description.scheduler)
    if description.index is not None:
        write_json(folder / "model_index.json", description.index)


def _side(image_size: Size, f: int = 1) -> Any:
    """Divides a size by f; one number where both sides are equal, as diffusers has."""
    sides = [image_size] if isinstance(image_size, int) else list(image_size)
    sides = [side // f for side in sides]
    return sides[0] if len(set(sides)) == 1 else sides


def _conditioner_models(condition: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Describes the networks of a condition; the first one holds its tensors."""
    kind, models = condition["kind"], {}
    if kind in TEXT_KINDS:
        model = token_transformer(condition)
        config = configs.token_transformer_config(model)
        if isinstance(model, ClipText):
            return {"text_encoder": config}
        models["bert"] = config
    if kind not in ("none", "text", "superres"):
        models["conditioner"] = {"_class_name": OWN_CONDITIONER, **condition}
    return models


def _unused_tensors(config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Makes the output layer that LDMBertModel declares and its pipeline never uses."""
    if config.get("architectures") != ["LDMBertModel"]:
        return {}
    logits = np.zeros((config["vocab_size"], config["d_model"]), np.float32)
    return {"to_logits.weight": logits, "to_logits.bias": logits[:, 0]}


def _write_tokenizer(folder: pathlib.Path, condition: Mapping[str, Any]) -> None:
    """Copies the tokenizer's files, if the model has them, and names their reader."""
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


def _model_index(
    spec: Mapping[str, Any], models: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any] | None:
    """Describes the pipeline that runs the model; None where diffusers has none."""
    kind = spec["condition"]["kind"]
    pipelines = {
        "none": "LDMPipeline" if "vqvae" in models else "DDIMPipeline",
        "text": "LDMTextToImagePipeline",
        "superres": "LDMSuperResolutionPipeline",
    }
    if kind not in pipelines or (kind == "none" and make_unet(spec).context_dim):
        return None
    is_clip = "text_encoder" in models
    name = "StableDiffusionPipeline" if is_clip else pipelines[kind]
    index: dict[str, Any] = configs.versioned({"_class_name": name})
    index["scheduler"] = ["diffusers", "DDIMScheduler"]
    for name in ("vqvae", "vae", "unet"):
        if name in models:
            index[name] = ["diffusers", models[name]["_class_name"]]
    # Without the tokenizer's files: from_pretrained(folder, tokenizer=...).
    if is_clip:
        index["text_encoder"] = ["transformers", "CLIPTextModel"]
        index["tokenizer"] = ["transformers", "CLIPTokenizer"]
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
    elif kind == "text":
        index["bert"] = ["latent_diffusion", "LDMBertModel"]
        index["tokenizer"] = ["transformers", "BertTokenizer"]
    return index


def _write_model(
    folder: pathlib.Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
) -> None:
    """Writes config.json and the weights, if there are any, under their usual names."""
    is_diffusers = "_diffusers_version" in config
    name = "diffusion_pytorch_model" if is_diffusers else "model"
    if tensors:
        write_safetensors(folder / f"{name}.safetensors", tensors)
    write_json(folder / "config.json", config)
