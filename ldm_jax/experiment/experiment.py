# SPDX-License-Identifier: Apache-2.0
"""Reads a config and joins the rooms: images, networks, task, mesh, loop.

The only place where a config is read. A config's sections mirror constructors (the
table SECTIONS), so a misspelt field is refused by name before anything runs.
"""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from ldm_jax.conditions.kinds import CONDITIONS, make_conditioner
from ldm_jax.conditions.vocabulary import by_part, files_of, text_section
from ldm_jax.data.images.image_sets import open_images
from ldm_jax.data.transforms.image_transform import ImageTransform
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.experiment.overrides import check_names, read_file
from ldm_jax.experiment.sections import LatentSet, TextEncoderSource
from ldm_jax.interop.feature_networks.lpips import LpipsFile
from ldm_jax.metrics.evaluation import Judging
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.unet import UNet
from ldm_jax.parallel import sharding
from ldm_jax.tasks.first_stage import first_stage
from ldm_jax.tasks.generate import Sampling
from ldm_jax.tasks.latent_diffusion import Objective
from ldm_jax.tasks.model import (
    ConditionEncoder,
    FirstStage,
    LatentDiffusion,
    with_frozen,
)
from ldm_jax.training.checkpoints.checkpointer import load_params
from ldm_jax.training.loop import train as run_loop
from ldm_jax.training.optimizer import make_optimizer

# task -> section -> what its fields are the arguments of; None: a plain value.
SHARED = {
    "task": None,
    "seed": None,
    "batch_size": None,
    "autoencoder": Autoencoder,
    "mesh": sharding.make_mesh,
    "optimizer": make_optimizer,
    "train": run_loop,
}
SECTIONS: dict[str, dict[str, Callable | None]] = {
    "first_stage": {
        **SHARED,
        "images": open_images,
        "transform": ImageTransform,
        "objective": first_stage,
        "lpips": LpipsFile,
        "held_out": None,
    },
    "latent_diffusion": {
        **SHARED,
        "latents": LatentSet,
        "condition": make_conditioner,
        "text_encoder": TextEncoderSource,
        "unet": UNet,
        "schedule": make_schedule,
        "prediction": None,
        "objective": Objective,
        "sampling": Sampling,
        "judging": Judging,
        "images": open_images,
        "transform": ImageTransform,
    },
    # Imported, to be read by a diffusion model.
    "text_encoder": {"task": None, "condition": make_conditioner},
}
# Arguments of those that code gives, no config.
GIVEN_BY_CODE = {
    "autoencoder": {"name", "parent"},
    "condition": {"first_stage"},
    "unet": {"name", "parent"},
    "mesh": {"devices"},
    "train": {"task", "batches", "optimizer", "workdir", "seed", "mesh", "evaluate"}
    | {"config", "utilization", "label"},
}
DTYPES = ("float32", "bfloat16", "float16")
# Sections that may be absent. What a diffusion model learns from is in the latents,
# unless images are to be encoded for it; a first stage may be trained without LPIPS.
OPTIONAL = {
    "latent_diffusion": {"images", "transform", "judging", "text_encoder"},
    "first_stage": {"lpips"},
}


def load_config(path: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """Loads a config file and applies overrides, see `overrides.read_file`."""
    return read_file(path, overrides, _fields)


def _fields(config: Mapping[str, Any], section: str) -> Mapping[str, inspect.Parameter]:
    """Returns the fields that a section may have; none where that is not known."""
    makers = [SECTIONS.get(config.get("task", ""), {}).get(section)]
    if section == "condition":
        makers.append(CONDITIONS.get(config[section].get("kind")))
    given = GIVEN_BY_CODE.get(section, ())
    return {
        name: field
        for maker in filter(None, makers)
        for name, field in inspect.signature(maker).parameters.items()
        if name not in given
    }


def check_config(config: Mapping[str, Any]) -> None:
    """Refuses a config whose task, sections or fields are unknown.

    Raises:
      ValueError: names the section or field, and the nearest known one.
    """
    known = SECTIONS.get(config.get("task"))
    if known is None:
        raise ValueError(
            f"config.task must be one of {', '.join(sorted(SECTIONS))}: got "
            f"{config.get('task')!r}; a file of several experiments takes the name of "
            "one after a colon, as its first lines tell: --config=FILE:ARGUMENT."
        )
    check_names("config", config, known)
    missing = sorted(set(known) - set(config) - OPTIONAL.get(config["task"], set()))
    if missing:
        raise ValueError(f"config lacks the sections {', '.join(missing)}.")
    for name, maker in known.items():
        if maker is None or name not in config:
            continue
        if config[name].get("dtype") not in (None, *DTYPES):
            raise ValueError(
                f"config.{name}.dtype must be one of {', '.join(DTYPES)}: got "
                f"{config[name]['dtype']!r}."
            )
        fields = _fields(config, name)
        if not any(field.kind == field.VAR_KEYWORD for field in fields.values()):
            check_names(f"config.{name}", config[name], fields)


def make_first_stage(config) -> FirstStage:
    """Makes the first stage that `config.autoencoder` describes."""
    return FirstStage(Autoencoder(**config.autoencoder))


def make_latent_diffusion(config, latent_scale: float | None = None) -> LatentDiffusion:
    """Makes the diffusion model that a latent-diffusion config describes.

    Args:
      config: of the task "latent_diffusion".
      latent_scale: None takes `config.latents.scale`.
    """
    autoencoder = Autoencoder(**config.autoencoder)
    scale = config.latents.scale if latent_scale is None else latent_scale
    return LatentDiffusion(
        autoencoder,
        scale,
        unet=UNet(**{"out_channels": autoencoder.embed_channels, **config.unet}),
        conditioner=make_conditioner(
            **config.condition, first_stage=(autoencoder, scale)
        ),
        schedule=make_schedule(**config.schedule),
        prediction=config.prediction,
    )


def make_transform(config, **changes) -> ImageTransform:
    """Makes a diffusion config's `transform`; `latents` says its size and flip."""
    fields = dict(image_size=config.latents.image_size, flip=config.latents.flip)
    return ImageTransform(**{**fields, **config.get("transform", {}), **changes})


def resolve(config, measured_scale: float, measured_shapes) -> ConfigDict:
    """Fills a config in with what the latents measured, after checking it against them.

    Args:
      config: of the task "latent_diffusion".
      measured_scale: 1 / standard deviation of the raw latents.
      measured_shapes: (h, w, c) of the latents, of each bucket.

    Returns:
      A copy with `latents.scale` set.

    Raises:
      ValueError: the latents are not of the size that the config describes.
    """
    wanted = LatentSet(**config.latents).latent_shape(Autoencoder(**config.autoencoder))
    if wanted not in measured_shapes:
        raise ValueError(
            f"config.latents.image_size={config.latents.image_size} and "
            f"config.autoencoder make latents of {wanted}: those in "
            f"{config.latents.directory} are {', '.join(map(str, measured_shapes))}; "
            "change the config, or write latents of that size (ldm-jax latents)."
        )
    # A plain copy of one with placeholders would share them with the original.
    config = config.copy_and_resolve_references()
    if config.latents.scale is None:
        config.latents.scale = measured_scale
    return config


def read_config(directory: str, task: str | None = None) -> ConfigDict:
    """Reads the settings of a model directory.

    Args:
      directory: written by training, or imported.
      task: what the model must be; None takes both.

    Raises:
      ValueError: it is no model directory, its settings are not ours, or it holds a
        model of the other task.
    """
    path = epath.Path(directory) / "config.json"
    if not path.exists():
        raise ValueError(
            f"{directory} is no model directory: it has no config.json; give the "
            "--workdir of `ldm-jax train`, or the --out of `ldm-jax import`."
        )
    config = ConfigDict(_tuples(json.loads(path.read_text())))
    check_config(config)
    if task not in (None, config.task):
        raise ValueError(
            f"this needs a model of the task {task}: {directory} holds one of the task "
            f"{config.task}; give another directory."
        )
    section = text_section(config.get("condition", {}))
    if section is not None:
        section.update(files_of(directory, section))
    return config


def _tuples(value):
    """Undoes JSON's lists: configs hold tuples."""
    if isinstance(value, dict):
        return {name: _tuples(entry) for name, entry in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def latent_shape(directory: str) -> tuple[int, int, int]:
    """Returns (h, w, c) of the latents that a diffusion model was trained on."""
    config = read_config(directory)
    return LatentSet(**config.latents).latent_shape(Autoencoder(**config.autoencoder))


def load(directory: str, which: str = "ema"):
    """Loads a model, trained here or imported.

    Args:
      directory: config.json, checkpoints/, and of a diffusion model autoencoder/ and,
        if it reads a frozen text encoder, text_encoder/.
      which: "ema" takes averaged parameters where there are some, "raw" never.

    Returns:
      (FirstStage, LatentDiffusion or ConditionEncoder, params): frozen spec, pytree of
      NumPy arrays.

    Raises:
      ValueError: not a model directory.
      FileNotFoundError: it holds no whole checkpoint.
    """
    config = read_config(directory)
    params = load_params(directory, which)
    if config.task == "first_stage":
        return make_first_stage(config), {"autoencoder": params["autoencoder"]}
    if config.task == "text_encoder":
        return ConditionEncoder(
            conditioner=make_conditioner(**config.condition)
        ), params
    frozen = {"autoencoder": {}}
    stage, encoder = (
        epath.Path(directory) / n for n in ("autoencoder", "text_encoder")
    )
    if stage.exists():
        frozen["autoencoder"] = load_params(stage)["autoencoder"]
    if encoder.exists():
        frozen["conditioner"] = by_part(
            config.condition, load_params(encoder)["conditioner"]
        )
    return make_latent_diffusion(config), with_frozen(params, frozen)
