# SPDX-License-Identifier: Apache-2.0
"""Writes a model as weights, config and one file of plain PyTorch that runs them.

The code is `model.py` next to this file, copied unchanged. It reads `config.json`,
which holds all fields of the modules, and weights under our own names.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import numpy as np
from etils import epath
from flax import traverse_util

from ldm_jax.conditions.fields import FirstStageFields
from ldm_jax.conditions.registry import make_condition
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.files.writing import write_bytes, write_json
from ldm_jax.interop.cannot_express import CannotExpress
from ldm_jax.interop.networks import (
    condition_parts,
    make_unet,
    params_of,
    token_transformer,
)
from ldm_jax.interop.safetensors import write_safetensors
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.types import PyTree

CODE = pathlib.Path(__file__).with_name("model.py")
# Fields of modules that say how something is computed, not what.
NOT_CARRIED = {"name", "parent", "dtype", "remat", "attention_backend", "dropout"}
# What an encoder of tokens reads where its module has no such field.
TOKEN_ENCODER = dict(
    encoder="transformer",
    activation="gelu",
    mlp_width=None,
    pooled=None,
    head_channels=None,
)


def export_torch(
    folder: pathlib.Path | str,
    spec: Mapping[str, Any],
    params: PyTree,
    image_size: int | tuple[int, int] = 256,
) -> list[pathlib.Path]:
    """Writes model.py, config.json and model.safetensors into a folder.

    Args:
      folder: made by this function.
      spec: sections of a config: autoencoder and latent_scale; of a diffusion model
        also unet, condition, schedule and prediction.
      params: {"autoencoder", "unet", "conditioner"}, as many as the model has.
      image_size: side of the images in pixels, or (height, width).

    Returns:
      The paths written.

    Raises:
      ValueError: zero terminal SNR with a prediction of noise, which has no x0.
    """
    folder = pathlib.Path(folder)
    config = torch_config(spec, image_size)
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / CODE.name, CODE.read_bytes())
    write_json(folder / "config.json", config)
    write_safetensors(folder / "model.safetensors", torch_weights(spec, params))
    for part in condition_parts(spec.get("condition")).values():
        for path in vocabulary_of(part).values():
            write_bytes(folder / path.name, path.read_bytes())
    return sorted(folder.iterdir())


def torch_config(
    spec: Mapping[str, Any], image_size: int | tuple[int, int]
) -> dict[str, Any]:
    """Makes the config that `model.py` reads, with every field spelt out."""
    autoencoder = Autoencoder(**spec["autoencoder"])
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    config: dict[str, Any] = {
        "autoencoder": fields_of(autoencoder),
        "latent_scale": spec["latent_scale"],
        "image_size": list(size),
    }
    if "unet" not in spec:
        return config
    schedule = make_schedule(**spec["schedule"])
    return config | {
        "unet": fields_of(make_unet(spec)),
        "prediction": spec["prediction"],
        "noise_levels": [
            np.asarray(schedule.sqrt_alphas_cumprod).tolist(),
            np.asarray(schedule.sqrt_one_minus_alphas_cumprod).tolist(),
        ],
        "conditions": [
            condition_config(part, autoencoder, spec["latent_scale"])
            for part in condition_parts(spec["condition"]).values()
        ],
    }


def condition_config(
    section: Mapping[str, Any], autoencoder: Autoencoder, latent_scale: float
) -> dict[str, Any]:
    """Spells out the fields of one condition."""
    kind = section["kind"]
    first_stage = FirstStageFields(autoencoder, latent_scale)
    conditioner = make_condition(**section, first_stage=first_stage)
    if kind == "superres" and section.get("enlarge", 1) > 1:
        raise CannotExpress(
            "exported models do not enlarge a small image before it is joined: got "
            f"condition.enlarge={section['enlarge']}; use ldm-jax sample."
        )
    if kind in ("text", "layout"):
        network = token_transformer(section)
        example = {"tokens": np.zeros((1, network.length), np.int32)}
        null = np.asarray(conditioner.null(example)["tokens"])[0]
        names = (
            "tokenizer",
            "vocab",
            "merges",
            "max_objects",
            "num_classes",
            "encoder",
        )
        extra = {name: section[name] for name in names if name in section}
        defaults = {"tokenizer": "bytes", "max_objects": 30}
        fields = {**TOKEN_ENCODER, **defaults, **fields_of(network), **extra}
        return {**fields, "kind": kind, "null_tokens": null.tolist()}
    defaults = {
        "class": dict(width=512, has_null=True),
        "semantic": dict(out_channels=3, use_bias=False, f=autoencoder.f),
        "inpaint": dict(latent_scale=latent_scale),
    }
    known = {"class_names", "autoencoder"}
    given = {name: value for name, value in section.items() if name not in known}
    if kind == "inpaint" and "autoencoder" in section:
        given.setdefault("latent_scale", 1.0)
    return {**defaults.get(kind, {}), **given}


def vocabulary_of(section: Mapping[str, Any]) -> dict[str, epath.Path]:
    """Returns the tokenizer files of a text condition, by field."""
    fields = ("vocab", "merges") if section["kind"] == "text" else ()
    return {name: epath.Path(section[name]) for name in fields if section.get(name)}


def fields_of(module: nn.Module) -> dict[str, Any]:
    """Returns the fields of a module that define its computation, for JSON."""
    return {
        field.name: getattr(module, field.name)
        for field in dataclasses.fields(module)
        if field.name not in NOT_CARRIED
    }


def torch_weights(spec: Mapping[str, Any], params: PyTree) -> dict[str, np.ndarray]:
    """Lays parameters out as PyTorch does, under the names of `model.py`."""
    trees = {name: params[name] for name in ("autoencoder", "unet") if params.get(name)}
    for i, network in enumerate(condition_parts(spec.get("condition"))):
        if tree := params_of(params, network):
            trees[f"condition_{i}.network"] = tree
    return {
        name: array
        for prefix, tree in trees.items()
        for name, array in named_tensors(prefix, tree)
    }


def named_tensors(prefix: str, tree: PyTree) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, tensor) of a tree of our parameters; views, nothing is copied."""
    for path, value in traverse_util.flatten_dict(tree).items():
        *place, leaf = path
        value = np.asarray(value)
        if leaf == "kernel":
            # [kh, kw, in, out] -> [out, in, kh, kw]; [in, out] -> [out, in].
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        leaf = "weight" if leaf in ("kernel", "scale") else leaf
        yield ".".join([prefix, *place, leaf]), value
