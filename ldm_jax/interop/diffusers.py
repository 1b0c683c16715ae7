# SPDX-License-Identifier: Apache-2.0
"""diffusers folders to our parameters and back."""

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from ldm_jax.interop import diffusers_config as configs
from ldm_jax.interop import diffusers_spec as specs
from ldm_jax.interop.compvis import Imported
from ldm_jax.interop.files import read_json, read_weights, write_safetensors
from ldm_jax.interop.layouts import (
    NamesDiffer,
    expected_shapes,
    export_flat,
    import_flat,
    listed,
)
from ldm_jax.interop.networks import make_unet, network_rows, token_transformer
from ldm_jax.interop.stored import Renamed
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.types import PyTree

# Class name in a config -> our network.
NETWORKS = {
    "AutoencoderKL": "autoencoder",
    "VQModel": "autoencoder",
    "UNet2DModel": "unet",
    "UNet2DConditionModel": "unet",
    "LDMBertModel": "conditioner",
}

# Attention's names before diffusers 0.15; published folders still have them.
_OLD_ATTENTION = re.compile(r"(.*attentions\.\d+\.)(query|key|value|proj_attn)(\..*)")
_NEW_ATTENTION = {
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
}


def import_diffusers(folder) -> Imported:
    """Converts a folder of diffusers: a pipeline, or one model.

    Args:
      folder: holds model_index.json (a pipeline, one folder per model), or the
        config.json of one model and its weights.

    Returns:
      Imported. A pipeline's text encoder that is not ours (CLIP) is left out: its
      output is the context. One model alone gives a spec of its one section.

    Raises:
      ValueError: a class or an option that is not supported, or no weights.
      NamesDiffer: tensors are missing, left over or misshapen; lists them by name.
    """
    folder = pathlib.Path(folder)
    if not (folder / "model_index.json").is_file():
        network, section, weights = _open_model(folder)
        spec = _whole_spec({network: section})
        params = _import_networks(spec, {network: weights})
        return Imported(spec, params, "raw", {})
    index = read_json(folder / "model_index.json")
    sections, opened = {}, {}
    for name, entry in index.items():
        # Only folders that lie directly inside; a name is never a path.
        part = folder / pathlib.PurePath(name).name
        if not isinstance(entry, list) or not (part / "config.json").is_file():
            continue
        if read_json(part / "config.json").get("model_type") == "clip_text_model":
            continue
        network, section, weights = _open_model(part)
        sections[network], opened[network] = section, weights
    scheduler = folder / "scheduler" / "scheduler_config.json"
    if scheduler.is_file():
        sections["scheduler"] = specs.scheduler_spec(read_json(scheduler))
    spec = _whole_spec(sections)
    return Imported(spec, _import_networks(spec, opened), "raw", {})


def _open_model(folder: pathlib.Path):
    """Opens the folder of one model: (network, section of a spec, weights)."""
    config = read_json(folder / "config.json")
    name = config.get("_class_name") or (config.get("architectures") or ["none"])[0]
    if name not in NETWORKS:
        raise ValueError(
            f"{folder} holds a {name}; one of these can be imported: "
            f"{', '.join(NETWORKS)}."
        )
    readers = {
        "autoencoder": specs.autoencoder_spec,
        "unet": specs.unet_spec,
        "conditioner": specs.token_transformer_spec,
    }
    network = NETWORKS[name]
    weights = read_weights(folder)
    return network, readers[network](config), Renamed(weights, _modern(weights))


def _modern(weights) -> dict[str, str]:
    """{present name of a tensor: its name in the file}."""
    result = {}
    for name in weights:
        old = _OLD_ATTENTION.fullmatch(name)
        new = f"{old[1]}{_NEW_ATTENTION[old[2]]}{old[3]}" if old else name
        result[new] = name
    return result


def _whole_spec(sections) -> dict[str, Any]:
    """Puts a spec's sections together; the condition follows from what is there."""
    spec: dict[str, Any] = {}
    if "autoencoder" in sections:
        spec["autoencoder"], spec["latent_scale"] = sections["autoencoder"]
    if "conditioner" in sections:
        spec["condition"] = sections["conditioner"]
    if "unet" not in sections:
        spec["task"] = "first_stage"
        return spec
    unet = sections["unet"]
    spec.update(task="latent_diffusion", unet=unet)
    if "autoencoder" not in spec and unet["in_channels"] == unet["out_channels"] == 3:
        # Pixel-space diffusion (DDPMPipeline) has no first stage.
        spec["autoencoder"] = {"bottleneck": "pixels"}
        spec["latent_scale"] = 1.0
    is_concat = (
        unet["in_channels"] == 2 * unet["out_channels"] and "context_dim" not in unet
    )
    spec.setdefault("condition", {"kind": "superres" if is_concat else "none"})
    schedule = sections.get("scheduler", ({"kind": "scaled_linear"}, "eps"))
    spec["schedule"], spec["prediction"] = schedule
    spec["objective"] = {"distance": "l2"}
    return spec


def _import_networks(spec, opened) -> PyTree:
    """Converts the weights of each network; every tensor must have its place."""
    params = {}
    for network, rows in network_rows(spec).items():
        if network not in opened:
            raise ValueError(f"the folder has no weights for the {network}.")
        weights = opened[network]
        left_over = set(weights) - set(expected_shapes(rows, "diffusers"))
        lines = [
            f"left over: {name} {np.shape(weights[name])}"
            for name in sorted(left_over)
            if not name.startswith("to_logits.")  # of LDMBertModel, never used
        ]
        if lines:
            what = f"the {network}'s weights hold tensors the model has not"
            raise NamesDiffer(listed(what, lines))
        flat = import_flat(weights, rows, "diffusers")
        params[network] = traverse_util.unflatten_dict(flat, sep="/")
    return params


def export_diffusers(
    folder, spec: Mapping[str, Any], params: PyTree, image_size: int = 256
) -> None:
    """Writes a diffusers pipeline folder: configs, weights and scheduler.

    A class embedding, or the mapping of a segmentation, for which diffusers has no
    class, is written beside as conditioner.safetensors, under its CompVis names.

    Args:
      folder: made if it is missing.
      spec: see `networks`.
      params: {"autoencoder", "unet", "conditioner"}, as many as the model has.
      image_size: side of the images the model was trained on, in pixels.

    Raises:
      CannotExpress: diffusers has no class that computes what the model does; nothing
        has been written then.
    """
    folder = pathlib.Path(folder)
    autoencoder = Autoencoder(**spec["autoencoder"])
    rows = network_rows(spec)
    flat = {name: traverse_util.flatten_dict(params[name], sep="/") for name in rows}
    tensors = {
        name: export_flat(flat[name], its_rows, "diffusers")
        for name, its_rows in rows.items()
    }
    folders: dict[str, tuple[dict[str, Any], str]] = {}  # folder -> config, network
    if "autoencoder" in rows:
        config = configs.autoencoder_config(
            autoencoder, spec["latent_scale"], image_size
        )
        folders["vqvae"] = config, "autoencoder"
    if "unet" in rows:
        config = configs.unet_config(make_unet(spec), image_size // autoencoder.f)
        folders["unet"] = config, "unet"
        scheduler = configs.scheduler_config(spec["schedule"], spec["prediction"])
    beside = None
    if "conditioner" in rows and spec["condition"]["kind"] in ("text", "layout"):
        model = token_transformer(spec["condition"])
        folders["bert"] = configs.token_transformer_config(model), "conditioner"
        shape = (model.vocab_size, model.width)
        tensors["conditioner"]["to_logits.weight"] = np.zeros(shape, np.float32)
        tensors["conditioner"]["to_logits.bias"] = np.zeros(shape[:1], np.float32)
    elif "conditioner" in rows:
        beside = export_flat(flat["conditioner"], rows["conditioner"], "compvis")
    if "unet" not in rows:
        _write_model(folder, folders["vqvae"][0], tensors["autoencoder"])
        return
    for name, (config, network) in folders.items():
        _write_model(folder / name, config, tensors[network])
    _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    if beside is not None:
        write_safetensors(folder / "conditioner.safetensors", beside)
    index = _model_index(spec, folders)
    if index is not None:
        _write_json(folder / "model_index.json", index)


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
    index: dict[str, Any] = {
        "_class_name": pipelines[kind],
        "_diffusers_version": configs.VERSION,
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    for name in ("vqvae", "unet"):
        if name in folders:
            index[name] = ["diffusers", folders[name][0]["_class_name"]]
    if kind == "text":
        # The tokenizer is bert-base-uncased's: from_pretrained(folder, tokenizer=...).
        index["bert"] = ["latent_diffusion", "LDMBertModel"]
        index["tokenizer"] = ["transformers", "BertTokenizer"]
    return index


def _write_model(folder: pathlib.Path, config, tensors) -> None:
    is_transformer = "model_type" in config
    name = "model" if is_transformer else "diffusion_pytorch_model"
    write_safetensors(folder / f"{name}.safetensors", tensors)
    _write_json(folder / "config.json", config)


def _write_json(path: pathlib.Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
