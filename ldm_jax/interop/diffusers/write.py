# SPDX-License-Identifier: Apache-2.0
"""Exports models as folders of diffusers."""

import pathlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from ldm_jax.files.formats.png import save_png
from ldm_jax.files.paths import PathLike
from ldm_jax.files.writing import write_bytes, write_json, write_text
from ldm_jax.interop.cannot_express import CannotExpress
from ldm_jax.interop.diffusers import write_config as configs
from ldm_jax.interop.diffusers.folders import OWN_CONDITIONER
from ldm_jax.interop.diffusers.model_card import PICTURE, CardDetails, model_card
from ldm_jax.interop.diffusers.model_index import (
    OWN_PIPELINE,
    TOKENIZERS,
    choose_pipeline,
    exported_code,
    has_tokenizer,
    model_index,
)
from ldm_jax.interop.diffusers.read import TEXT_KINDS, form_of, part_prefix
from ldm_jax.interop.diffusers.write_scheduler import write_scheduler
from ldm_jax.interop.layouts import export_flat
from ldm_jax.interop.networks import (
    condition_parts,
    make_unet,
    network_rows,
    params_of,
    token_transformer,
)
from ldm_jax.interop.safetensors import write_safetensors
from ldm_jax.interop.stored import HalfPrecision
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.clip import ClipText
from ldm_jax.types import PyTree

Size = int | tuple[int, int]
# Fields of a condition that name local files, which are copied.
FILE_FIELDS = ("vocab", "merges")


class Description(NamedTuple):
    """The configs of a folder of diffusers.

    Attributes:
      models: {folder, "" for the folder itself: config.json}.
      networks: {folder: {our network whose tensors it holds: prefix of their names}};
        a folder that only holds a config has none.
      scheduler: scheduler_config.json; None for one model alone.
      index: model_index.json; None for one model alone.
      code: {path: content} of the pipeline, where diffusers has none for the model.
    """

    models: dict[str, dict[str, Any]]
    networks: dict[str, dict[str, str]]
    scheduler: dict[str, Any] | None = None
    index: dict[str, Any] | None = None
    code: Mapping[str, bytes] = MappingProxyType({})


def describe_model(spec: Mapping[str, Any], image_size: Size = 256) -> Description:
    """Describes a model (see `networks`) as diffusers does.

    Raises:
      CannotExpress: diffusers has no class that computes what the model does.
    """
    if "autoencoder" not in spec:  # a text encoder alone
        config = configs.token_transformer_config(token_transformer(spec["condition"]))
        return Description({"": config}, {"": {"conditioner": ""}})
    stage = Autoencoder(**spec["autoencoder"])
    models, networks = {}, {}
    scale = spec["latent_scale"]
    if stage.bottleneck != "pixels":
        config = configs.autoencoder_config(stage, scale, _side(image_size))
        if "unet" not in spec:
            return Description({"": config}, {"": {"autoencoder": ""}})
        models["vqvae"], networks["vqvae"] = config, {"autoencoder": ""}
    elif scale != 1:
        raise CannotExpress(
            "a diffusers folder without a first stage has no scale of its images: this "
            f"model has latent_scale={scale}."
        )
    condition, unet, side = (
        spec["condition"],
        make_unet(spec),
        _side(image_size, stage.f),
    )
    models["unet"], networks["unet"] = configs.unet_config(unet, side), {"unet": ""}
    is_square = isinstance(side, int)
    pipeline = choose_pipeline(condition, stage, unet, scale, is_square)
    sampling = dict(spec.get("sampling", {}))
    if pipeline == "DDIMPipeline":
        if sampling.get("sampler") == "ddpm":
            pipeline = "DDPMPipeline"
        else:  # the pipeline would convert any other class
            sampling["sampler"] = "ddim"
    scheduler = write_scheduler(spec["schedule"], spec["prediction"], sampling)
    models |= _conditioner_models(spec, stage, pipeline)
    networks |= _conditioner_networks(spec)
    if pipeline == "StableDiffusionPipeline":  # its name for the first stage
        models["vae"], networks["vae"] = models.pop("vqvae"), networks.pop("vqvae")
    index = model_index(pipeline, models, condition, scheduler["_class_name"])
    code = exported_code(pipeline)
    return Description(models, networks, configs.versioned(scheduler), index, code)


def export_diffusers(
    folder: PathLike,
    spec: Mapping[str, Any],
    params: PyTree,
    image_size: Size = 256,
    variant: str = "",
    details: CardDetails = CardDetails(),
) -> None:
    """Writes a diffusers pipeline folder: configs, weights and scheduler.

    A first stage or a text encoder alone is a folder of that one model. Models for
    which diffusers has no pipeline get a custom one, and the folder conditioner/.

    Args:
      folder: made if it is missing.
      spec: see `networks`.
      params: {"autoencoder", "unet", "conditioner"}, as many as the model has.
      image_size: side of the images the model was trained on, in pixels, or (height,
        width).
      variant: "fp16" writes weights in half precision in addition to the others.
      details: for the model card of a diffusion model or a first stage.

    Raises:
      ValueError: half precision cannot hold a weight.
      CannotExpress: diffusers has no class that computes what the model does; nothing
        has been written then.
    """
    folder = pathlib.Path(folder)
    description = describe_model(spec, image_size)
    rows = network_rows(spec)
    for name, config in description.models.items():
        tensors: dict[str, np.ndarray] = {}
        for network, prefix in description.networks.get(name, {}).items():
            flat: Any = traverse_util.flatten_dict(params_of(params, network), sep="/")
            form = form_of(spec, network)
            tensors |= export_flat(flat, rows[network], form, f"{prefix}{{}}".format)
        tensors |= _unused_tensors(config)
        _write_model(folder / name, config, tensors, variant)
    place = folder / "tokenizer" if description.scheduler else folder
    for section in condition_parts(spec.get("condition")).values():
        _write_tokenizer(place, section)
    if description.scheduler is not None:
        scheduler = folder / "scheduler" / "scheduler_config.json"
        write_json(scheduler, description.scheduler)
    if description.index is not None:
        write_json(folder / "model_index.json", description.index)
    if "autoencoder" in spec:
        index = description.index or description.models[""]
        _write_card(folder, spec, params, index, details, bool(variant))
    for name, code in description.code.items():
        if (folder / name).parent.is_dir():
            write_bytes(folder / name, code)


def _write_card(folder, spec, params, index, details, has_half) -> None:
    """Writes README.md, and the picture that it shows."""
    name = index["_class_name"]
    pipeline = name if isinstance(name, str) else name[-1]
    counts = {
        network: sum(np.size(x) for x in jax.tree.leaves(tree))
        for network, tree in params.items()
    }
    counts = {network: count for network, count in counts.items() if count}
    card = model_card(spec, pipeline, counts, details, has_half)
    write_text(folder / "README.md", card)
    if details.picture is not None:
        save_png(folder / PICTURE, details.picture)


def _side(image_size: Size, f: int = 1) -> Any:
    """Divides a size by f; one number where both sides are equal, as diffusers has."""
    sides = [image_size] if isinstance(image_size, int) else list(image_size)
    sides = [side // f for side in sides]
    return sides[0] if len(set(sides)) == 1 else sides


def _conditioner_models(
    spec: Mapping[str, Any], stage: Autoencoder, pipeline: str
) -> dict[str, dict[str, Any]]:
    """Describes the networks of a condition, and our own class with its settings."""
    parts = condition_parts(spec["condition"])
    models = {
        _token_folder(section): configs.token_transformer_config(
            token_transformer(section)
        )
        for section in parts.values()
        if section["kind"] in TEXT_KINDS
    }
    if pipeline != OWN_PIPELINE or spec["condition"]["kind"] == "none":
        return models
    scale, described = 1.0, {}
    for network, section in parts.items():
        fields = {k: v for k, v in section.items() if k not in FILE_FIELDS}
        if fields["kind"] == "semantic":
            fields.setdefault("f", stage.f)
        if fields["kind"] == "inpaint" and "autoencoder" not in fields:
            scale = fields.get("latent_scale", spec["latent_scale"])
        described[network.rpartition("/")[2]] = fields
    is_hybrid = spec["condition"]["kind"] == "hybrid"
    condition = {"kind": "hybrid", "parts": described}
    if not is_hybrid:
        (condition,) = described.values()
    config = configs.versioned({"_class_name": OWN_CONDITIONER})
    models["conditioner"] = config | {"condition": condition, "latent_scale": scale}
    return models


def _token_folder(section: Mapping[str, Any]) -> str:
    """Returns the folder of the encoder of a text or layout condition."""
    is_clip = isinstance(token_transformer(section), ClipText)
    return "text_encoder" if is_clip else "bert"


def _conditioner_networks(spec: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Returns {folder: {network: prefix}} of the parts that have parameters."""
    networks: dict[str, dict[str, str]] = {}
    rows = network_rows(spec)
    for network, section in condition_parts(spec["condition"]).items():
        is_text = section["kind"] in TEXT_KINDS
        folder = _token_folder(section) if is_text else "conditioner"
        if network in rows:
            prefix = "" if is_text else part_prefix(network)
            networks.setdefault(folder, {})[network] = prefix
    return networks


def _unused_tensors(config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Makes the output layer that LDMBertModel declares and its pipeline never uses."""
    if config.get("architectures") != ["LDMBertModel"]:
        return {}
    logits = np.zeros((config["vocab_size"], config["d_model"]), np.float32)
    return {"to_logits.weight": logits, "to_logits.bias": logits[:, 0]}


def _write_tokenizer(folder: pathlib.Path, condition: Mapping[str, Any]) -> None:
    """Copies the tokenizer's files, if the model has them, and names their reader."""
    names = {
        "bert": {"vocab": "vocab.txt"},
        "clip": {"vocab": "vocab.json", "merges": "merges.txt"},
        "bytes": {},
    }
    if condition["kind"] != "text" or not has_tokenizer(condition):
        return
    tokenizer = condition.get("tokenizer", "bytes")
    config = {
        "tokenizer_class": TOKENIZERS[tokenizer],
        "model_max_length": token_transformer(condition).length,
    }
    write_json(folder / "tokenizer_config.json", config)
    for field, name in names[tokenizer].items():
        write_bytes(folder / name, pathlib.Path(condition[field]).read_bytes())


def _write_model(
    folder: pathlib.Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    variant: str,
) -> None:
    """Writes config.json and the weights, if there are any, under their usual names."""
    is_diffusers = "_diffusers_version" in config
    name = "diffusion_pytorch_model" if is_diffusers else "model"
    if tensors or config.get("_class_name") == OWN_CONDITIONER:
        write_safetensors(folder / f"{name}.safetensors", tensors)
        if variant:
            half = HalfPrecision(tensors)
            write_safetensors(folder / f"{name}.{variant}.safetensors", half)
    write_json(folder / "config.json", config)
