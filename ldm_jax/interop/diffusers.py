# SPDX-License-Identifier: Apache-2.0
"""diffusers folders to our parameters."""

import pathlib
import re
from typing import Any

import numpy as np
from flax import traverse_util

from ldm_jax.interop import diffusers_spec as specs
from ldm_jax.interop.compvis import Imported
from ldm_jax.interop.files import read_json, read_weights
from ldm_jax.interop.layouts import (
    NamesDiffer,
    expected_shapes,
    import_flat,
    listed,
)
from ldm_jax.interop.networks import network_rows
from ldm_jax.interop.stored import Renamed
from ldm_jax.types import PyTree

# In the config of a conditioner for which diffusers has no class.
OURS = "ldm_jax.Conditioner"

# Class name in a config -> our network.
NETWORKS = {
    "AutoencoderKL": "autoencoder",
    "VQModel": "autoencoder",
    "UNet2DModel": "unet",
    "UNet2DConditionModel": "unet",
    "LDMBertModel": "conditioner",
    "CLIPTextModel": "conditioner",
    OURS: "conditioner",
}

# Conditions whose network is LDMBertModel or CLIPTextModel.
TEXT_KINDS = ("text", "layout")

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
      folder: holds a folder per model (a pipeline), or the config.json of one model
        and its weights.

    Returns:
      Imported. Models of other classes (a safety checker) are left out. One model
      alone gives a spec of its one section.

    Raises:
      ValueError: a class or an option that is not supported, or no weights.
      NamesDiffer: tensors are missing, left over or misshapen; lists them by name.
    """
    folder = pathlib.Path(folder)
    if (folder / "config.json").is_file():
        parts = [folder]
    else:
        parts = sorted(part.parent for part in folder.glob("*/config.json"))
    sections, opened = {}, {}
    for part in parts:
        config = read_json(part / "config.json")
        if _class_name(config) in NETWORKS or part == folder:
            network, section, weights = _open_model(part, config)
            sections[network] = section
            if weights or network not in opened:  # conditioner/ may only describe bert/
                opened[network] = weights
    if not opened:
        raise ValueError(
            f"{folder} holds no model (a folder with config.json) of the classes "
            f"{', '.join(NETWORKS)}."
        )
    if "conditioner" in sections:
        files = (
            ("vocab", "vocab.txt"),
            ("vocab", "vocab.json"),
            ("merges", "merges.txt"),
        )
        for field, name in files:  # the tokenizer's, where they came along
            if (folder / "tokenizer" / name).is_file():
                sections["conditioner"][field] = str(folder / "tokenizer" / name)
    scheduler = folder / "scheduler" / "scheduler_config.json"
    if scheduler.is_file():
        sections["scheduler"] = specs.scheduler_spec(read_json(scheduler))
    spec = _whole_spec(sections)
    return Imported(spec, _import_networks(spec, opened), "raw", {})


def _class_name(config) -> str:
    return config.get("_class_name") or (config.get("architectures") or ["none"])[0]


def _open_model(folder: pathlib.Path, config):
    """Opens the folder of one model: (network, section of a spec, weights)."""
    name = _class_name(config)
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
    if name == OURS:
        condition = {
            key: value for key, value in config.items() if key != "_class_name"
        }
        has_weights = (folder / "model.safetensors").is_file()
        return network, condition, read_weights(folder) if has_weights else {}
    weights = read_weights(folder)
    return network, readers[network](config), Renamed(weights, _modern(weights, name))


def _modern(weights, class_name: str) -> dict[str, str]:
    """{name of a tensor in our tables: its name in the file}."""
    result = {}
    for name in weights:
        if class_name == "CLIPTextModel" and not name.startswith("text_model."):
            result[f"text_model.{name}"] = name  # as transformers 5 saves it
            continue
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
        form = form_of(spec, network)
        left_over = set(weights) - set(expected_shapes(rows, form))
        lines = [
            f"left over: {name} {np.shape(weights[name])}"
            for name in sorted(left_over)
            # Never used: LDMBertModel's output layer, CLIP's numbers of positions.
            if not name.startswith("to_logits.") and not name.endswith("position_ids")
        ]
        if lines:
            what = f"the {network}'s weights hold tensors the model has not"
            raise NamesDiffer(listed(what, lines))
        flat = import_flat(weights, rows, form)
        params[network] = traverse_util.unflatten_dict(flat, sep="/")
    return params


def form_of(spec, network: str) -> str:
    """Whose names a network's tensors have: CompVis's where diffusers has none."""
    is_ours = network == "conditioner" and spec["condition"]["kind"] not in TEXT_KINDS
    return "compvis" if is_ours else "diffusers"
