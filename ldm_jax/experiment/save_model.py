# SPDX-License-Identifier: Apache-2.0
"""Writes model directories: of imported models, and of models made in Python."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ldm_jax.conditions.base import Condition
from ldm_jax.conditions.kinds.hybrid import Hybrid
from ldm_jax.diffusion.schedule import make_schedule, same_schedule
from ldm_jax.experiment.config import schema
from ldm_jax.experiment.vocabulary import copy_files, places_of, text_section
from ldm_jax.files.errors import shown
from ldm_jax.files.outputs import check_holds_checkpoints
from ldm_jax.files.paths import PathLike, is_remote
from ldm_jax.files.writing import atomic_directory
from ldm_jax.interop.own_files import check_shapes, flatten
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.classifier import LatentClassifier
from ldm_jax.models.unet import UNet
from ldm_jax.parallel.outputs import new_output
from ldm_jax.tasks.checks import check_networks
from ldm_jax.tasks.classifier import NoisyLatentClassifier
from ldm_jax.tasks.model import ConditionEncoder, FirstStage, LatentDiffusion
from ldm_jax.training.checkpoints.params import save_params
from ldm_jax.types import PyTree

# Sections of config.json for a model that was not trained here. They are empty, so that
# training which starts from this config uses the defaults of the constructors.
NO_RUN = dict(seed=0, batch_size=1, mesh={}, optimizer={}, train={})


def save(
    directory: PathLike,
    model: FirstStage | ConditionEncoder,
    params: PyTree,
    *,
    image_size: int | tuple[int, int] | None = None,
) -> None:
    """Writes a model as a model directory, which `load` and all commands take.

    Args:
      directory: new, or an empty folder.
      model: a first stage, diffusion model, text encoder or classifier of noisy
        latents, from `load` or made of its parts.
      params: pytree of arrays, an entry per network.
      image_size: default size of samples in pixels: a side, or (height, width). None
        is 256, or for a classifier the size of the images that it reads.

    Raises:
      ValueError: the directory is not empty, the parameters are not the model's, or
        the model has settings that config.json cannot express; nothing is written.
    """
    check_networks(params)
    spec = model_spec(model)
    if isinstance(model, NoisyLatentClassifier):
        image_size = _image_size(model, image_size)
    settings = model_settings(spec, image_size)
    schema.check_config(settings)
    check_shapes(settings, flatten(params), directory)
    with new_model_directory(directory, "directory") as folder:
        section = text_section(settings.get("condition", {}))
        if section is not None:
            copy_files(folder, section)
            section.update(places_of(section))
        write_model(folder, spec, params, settings)


def model_sections(config: ConfigDict) -> dict[str, Any]:
    """Selects the sections of an experiment's config that describe its model."""
    schema.check_config(config)
    spec = config.to_dict()
    return {**spec, "latent_scale": spec.get("latents", {"scale": 1.0})["scale"]}


def _image_size(model: NoisyLatentClassifier, given: Any) -> int:
    """Returns the side of the images that a classifier reads, in pixels."""
    side = model.classifier.latent_size * model.autoencoder.f
    if given not in (None, side, (side, side)):
        raise ValueError(
            f"this classifier reads images of {side}x{side}: got image_size={given}; "
            "leave it out."
        )
    return side


def model_spec(model: FirstStage | ConditionEncoder) -> dict[str, Any]:
    """Describes a model by the sections of a config.

    Raises:
      ValueError: see `save`.
    """
    if type(model) is ConditionEncoder:
        condition = condition_section(model.conditioner)
        return {"task": "text_encoder", "condition": condition}
    if type(model) is FirstStage:
        if model.latent_scale != 1:
            raise ValueError(
                "a first stage alone is stored without a scale of its latents: got "
                f"latent_scale={model.latent_scale}; save the diffusion model, or "
                "dataclasses.replace(model, latent_scale=1.0)."
            )
        stage = module_fields(model.autoencoder, Autoencoder)
        return {"task": "first_stage", "autoencoder": stage}
    if not isinstance(model, LatentDiffusion | NoisyLatentClassifier):
        raise ValueError(
            "a first stage, a diffusion model, a text encoder or a classifier of noisy "
            f"latents can be saved: got {type(model).__name__}; give one of them."
        )
    spec = {
        "autoencoder": module_fields(model.autoencoder, Autoencoder),
        "latent_scale": float(model.latent_scale),
        "schedule": schedule_section(model),
    }
    if isinstance(model, NoisyLatentClassifier):
        fields = module_fields(model.classifier, LatentClassifier)
        sizes = schema.GIVEN_BY_CODE["classifier"]  # follow from the latents
        fields = {name: x for name, x in fields.items() if name not in sizes}
        spec |= {"task": "classifier", "classifier": fields}
        names = {"class_names": tuple(model.class_names)} if model.class_names else {}
        return {**spec, **names}
    return {
        **spec,
        "task": "latent_diffusion",
        "unet": module_fields(model.unet, UNet),
        "condition": condition_section(model.conditioner, model.autoencoder),
        "prediction": model.prediction,
    }


def schedule_section(model: LatentDiffusion | NoisyLatentClassifier) -> dict[str, Any]:
    """Returns the section of a model's noise schedule.

    Raises:
      ValueError: `schedule_settings` are missing, or make another schedule.
    """
    section: dict[str, Any] = dict(model.schedule_settings or {})
    if not section:  # its betas, if they are enough
        betas = tuple(np.asarray(model.schedule.betas, np.float64).tolist())
        section = dict(kind="given", num_timesteps=len(betas), betas=betas)
    if not same_schedule(model.schedule, make_schedule(**section)):
        raise ValueError(
            "schedule_settings must be the arguments of make_schedule that made the "
            f"model's schedule: got {shown(model.schedule_settings)}; "
            "dataclasses.replace(model, schedule_settings=...) sets them."
        )
    return section


def condition_section(
    condition: Condition, first_stage: Autoencoder | None = None
) -> dict[str, Any]:
    """Returns the section of a condition: fields that differ from their defaults."""
    if isinstance(condition, Hybrid):
        parts = condition.parts.items()
        sections = {name: condition_section(x, first_stage) for name, x in parts}
        return {"kind": "hybrid", "parts": sections}
    fields = changed_fields(condition)
    stage = fields.get("autoencoder")
    if isinstance(stage, Autoencoder):
        fields["autoencoder"] = module_fields(stage, Autoencoder)
    if stage is not None and stage == first_stage:
        # A condition that shares the first stage also uses its scale, if it sets none.
        del fields["autoencoder"]
        fields["latent_scale"] = getattr(condition, "latent_scale", None)
    return {"kind": condition.kind, **fields}


def module_fields(module: nn.Module, kind: type[nn.Module]) -> dict[str, Any]:
    """Returns the fields of a module that differ from their defaults.

    Raises:
      ValueError: it is not of the kind that a section of a config describes.
    """
    if type(module) is not kind:
        raise ValueError(
            f"a model directory describes a {kind.__name__}: got "
            f"{type(module).__name__}, whose settings it cannot hold; save its "
            "parameters alone, for example with numpy.savez."
        )
    fields = changed_fields(module)
    return {n: x for n, x in fields.items() if n not in ("parent", "name")}


def changed_fields(instance: Any) -> dict[str, Any]:
    """Returns the fields of a dataclass that differ from their defaults."""
    values = {
        field.name: getattr(instance, field.name)
        for field in dataclasses.fields(instance)
        if getattr(instance, field.name) is not field.default
        and getattr(instance, field.name) != field.default
    }
    if "dtype" in values:
        values["dtype"] = jnp.dtype(values["dtype"]).name
    return values


def model_settings(
    spec: Mapping[str, Any], image_size: int | tuple[int, int] | None
) -> dict[str, Any]:
    """Makes the settings of a model directory from the sections of any model."""
    if spec["task"] == "text_encoder":
        return {"task": spec["task"], "condition": dict(spec["condition"])}
    size = {"image_size": 256 if image_size is None else image_size}
    defaults: dict[str, dict[str, Any]] = {
        "first_stage": {
            "images": dict(dataset="", split="train"),
            "transform": size,
            "objective": dict(perceptual="none"),
            "held_out": "",
        },
        "latent_diffusion": {
            "latents": dict(directory="", **size),
            "objective": {},
            "sampling": {},
        },
        "classifier": {
            "diffusion": dict(directory=""),
            "latents": dict(directory="", **size),
        },
    }
    task = spec["task"]
    known = {k: v for k, v in spec.items() if k in schema.SECTIONS[task]}
    settings = {**NO_RUN, **defaults[task], **known}
    place = "transform" if task == "first_stage" else "latents"
    is_unknown = settings[place].get("image_size") is None
    settings[place] = {**settings[place], **(size if image_size or is_unknown else {})}
    if task != "first_stage":
        settings["latents"]["scale"] = spec["latent_scale"]
    if task == "latent_diffusion":
        settings["condition"] = dict(settings["condition"])
        if spec.get("schedule", {}).get("zero_terminal_snr"):
            # The grid that begins at the last step, unless another is chosen.
            settings["sampling"] = {"grid": "even", **settings["sampling"]}
    return settings


def write_model(
    folder: str,
    spec: Mapping[str, Any],
    params: PyTree,
    settings: Mapping[str, Any],
) -> None:
    """Writes the parameters; a diffusion model's first stage goes to autoencoder/."""
    params = dict(params)
    if settings["task"] == "text_encoder":
        save_params(folder, params, settings)
        return
    stage = {"autoencoder": params.pop("autoencoder", {})}
    if settings["task"] == "first_stage":
        save_params(folder, stage, settings)
        return
    if stage["autoencoder"]:  # a model of pixels has none
        stage_spec = {"task": "first_stage", "autoencoder": spec["autoencoder"]}
        image_size = settings["latents"].get("image_size")
        save_params(
            f"{folder}/autoencoder", stage, model_settings(stage_spec, image_size)
        )
    save_params(folder, params, settings)


@contextlib.contextmanager
def new_model_directory(out: PathLike, flag: str = "--out") -> Iterator[str]:
    """Yields a temporary directory that is renamed to `out` at the end of the block.

    Args:
      out: new, or an empty folder.
      flag: names it in errors.

    Raises:
      ValueError: there is something of this name, or it is a URL of another store than
        gs://.
    """
    check_holds_checkpoints(out, flag)
    with new_output(out, flag=flag):
        if is_remote(out):  # cannot be renamed
            yield str(out)
            return
        with atomic_directory(out) as folder:
            yield str(folder)
