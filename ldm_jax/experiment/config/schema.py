# SPDX-License-Identifier: Apache-2.0
"""The sections of a config and their fields: checking, and copies with changes.

A section mirrors a constructor (the table SECTIONS), so a misspelt field is refused by
name before anything runs.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from ldm_jax.conditions.registry import CONDITIONS, make_condition
from ldm_jax.data.images.image_sets import open_images
from ldm_jax.data.transforms.image_transform import ImageTransform
from ldm_jax.diffusion.samplers import SAMPLERS
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.experiment.config.sections import GuidedModel, LatentSet, TextEncoderSource
from ldm_jax.files.errors import nearest_name, shown
from ldm_jax.files.value_types import check_type
from ldm_jax.interop.feature_networks.lpips_file import LpipsFile
from ldm_jax.metrics.evaluation import Evaluation
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.classifier import LatentClassifier
from ldm_jax.models.unet import UNet
from ldm_jax.parallel import sharding
from ldm_jax.tasks.first_stage import first_stage
from ldm_jax.tasks.latent_diffusion import Objective
from ldm_jax.tasks.sampling import Sampling
from ldm_jax.training.optimizer import make_optimizer
from ldm_jax.training.options import LoopOptions

# task -> section -> what its fields are the arguments of; None: a plain value.
SHARED = {
    "task": None,
    "seed": None,
    "batch_size": None,
    "autoencoder": Autoencoder,
    "mesh": sharding.make_mesh,
    "optimizer": make_optimizer,
    "train": LoopOptions,
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
        "condition": make_condition,
        "text_encoder": TextEncoderSource,
        "unet": UNet,
        "schedule": make_schedule,
        "prediction": None,
        "objective": Objective,
        "sampling": Sampling,
        "evaluation": Evaluation,
        "images": open_images,
        "transform": ImageTransform,
    },
    "classifier": {
        **SHARED,
        "diffusion": GuidedModel,
        "latents": LatentSet,
        "schedule": make_schedule,
        "classifier": LatentClassifier,
        "class_names": None,
        # A directory of latents on which the classifier is evaluated.
        "held_out_latents": None,
    },
    # Imported, to be read by a diffusion model.
    "text_encoder": {"task": None, "condition": make_condition},
}
# Arguments of those that code gives, no config.
GIVEN_BY_CODE = {
    "autoencoder": {"name", "parent"},
    "condition": {"first_stage"},
    "unet": {"name", "parent"},
    "classifier": {"name", "parent", "latent_channels", "latent_size"},
    "mesh": {"devices"},
    "optimizer": {"run_steps"},
    "sampling": {"options", "schedule"},
}
# Sections of which one field chooses what further fields there are.
CHOICES: dict[str, tuple[str, Mapping[str, Callable]]] = {
    "condition": ("kind", CONDITIONS),
    "sampling": ("sampler", SAMPLERS),
}
# Ranges of plain values; a random key is made of 32 bits, one of which is the sign.
NUMBERS = {"seed": (0, 2**31 - 1), "batch_size": (1, 2**31 - 1)}
DTYPES = ("float32", "bfloat16", "float16")
# Fields that may be None in a config: the data determine them (data_metadata).
OPEN = {"image_size", "num_classes"}
# Sections that may be absent. What a diffusion model learns from is in the latents,
# unless images are to be encoded for it; a first stage may be trained without LPIPS.
OPTIONAL = {
    "latent_diffusion": {"images", "transform", "evaluation", "text_encoder"},
    "first_stage": {"lpips"},
    # Those of the diffusion model that is guided.
    "classifier": {"autoencoder", "schedule", "class_names", "held_out_latents"},
}


def section_fields(
    config: Mapping[str, Any], section: str
) -> Mapping[str, inspect.Parameter]:
    """Returns the fields that a section may have; none where that is not known.

    Args:
      config: of an experiment, or of a file of several.
      section: its name, "unet" for example.

    Returns:
      {name: `inspect.Parameter` with default and type}.
    """
    makers = [SECTIONS.get(config.get("task", ""), {}).get(section)]
    given = set(GIVEN_BY_CODE.get(section, ()))
    if makers[0] is not None and section in CHOICES:
        choice, table = CHOICES[section]
        default = inspect.signature(makers[0]).parameters[choice].default
        maker = table.get(config[section].get(choice, default))
        if maker is not None:
            makers.append(maker)
            given.add("section")  # now known by their names
    return {
        name: field
        for maker in filter(None, makers)
        for name, field in inspect.signature(maker).parameters.items()
        if name not in given
    }


def check_names(where: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raises ValueError for an unknown name; suggests the nearest known one."""
    for name in names:
        if name not in known:
            hint, takes = nearest_name(name, known), ", ".join(sorted(known))
            raise ValueError(
                f'{where} has no "{name}"{hint} It takes: {takes or "nothing"}.'
            )


def _check_numbers(config: Mapping[str, Any]) -> None:
    """Refuses plain values that are out of range."""
    for name, (low, high) in NUMBERS.items():
        value = config.get(name, low)
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if not is_whole or not low <= value <= high:
            raise ValueError(
                f"config.{name} must be a whole number from {low} to {high}: got "
                f"{value!r}; give another one."
            )


def _check_choice(values: Mapping[str, Any], section: str, where: str) -> None:
    """Refuses a section that chooses an unknown kind or sampler."""
    field, table = CHOICES.get(section, ("", {}))
    value = values.get(field)
    if value is not None and not (isinstance(value, str) and value in table):
        raise ValueError(
            f"{where}.{field} must be one of {', '.join(sorted(table))}: got "
            f"{shown(value)}."
        )


def check_config(config: ConfigDict | Mapping[str, Any]) -> None:
    """Refuses a config whose task, sections or fields are unknown, or of other types.

    Raises:
      ValueError: names the section or field, and the nearest known one or its type.
    """
    config = config.to_dict() if isinstance(config, ConfigDict) else config
    task = config.get("task", "")
    known = SECTIONS.get(task) if isinstance(task, str) else None
    if known is None:
        raise ValueError(
            f"config.task must be one of {', '.join(sorted(SECTIONS))}: got "
            f"{shown(config.get('task'))}; a file of several experiments takes the "
            "name of one after a colon, as its first lines tell: "
            "--config=FILE:ARGUMENT."
        )
    check_names("config", config, known)
    missing = sorted(set(known) - set(config) - OPTIONAL.get(task, set()))
    if missing:
        raise ValueError(
            f'a config of the task "{task}" needs the sections '
            f"{', '.join(sorted(known))}: it lacks {', '.join(missing)}; add them."
        )
    _check_numbers(config)
    for name, maker in known.items():
        if maker is not None and name in config:
            _check_section(config, name, f"config.{name}")


def _check_section(config: Mapping[str, Any], section: str, where: str) -> None:
    """Refuses a section with unknown fields, or with values of other types.

    Args:
      config: the experiment.
      section: its name in the experiment.
      where: its name in errors.
    """
    values = config[section]
    check_type(where, values, Mapping, "write the fields of the section")
    if values.get("dtype") not in (None, *DTYPES):
        raise ValueError(
            f"{where}.dtype must be one of {', '.join(DTYPES)}: got "
            f"{shown(values['dtype'])}."
        )
    _check_choice(values, section, where)
    fields = section_fields(config, section)
    if not any(field.kind == field.VAR_KEYWORD for field in fields.values()):
        check_names(where, values, fields)
    for name in fields.keys() & values.keys():
        field = fields[name]
        if values[name] is None and name in OPEN:
            continue
        way_out = (
            "the field must be set"
            if field.default is field.empty
            else f"the default is {field.default!r}"
        )
        check_type(f"{where}.{name}", values[name], field.annotation, way_out)
        if isinstance(values[name], str) and not _is_line(values[name]):
            raise ValueError(
                f"{where}.{name} must be a text of one line: got {shown(values[name])}."
            )
    if values.get("kind") == "hybrid":  # whose parts are conditions
        for name, part in values.get("parts", {}).items():
            of_part = {**config, section: part}
            _check_section(of_part, section, f"{where}.parts.{name}")


def _is_line(text: str) -> bool:
    """Returns whether a text has no line breaks, of any kind."""
    return text.splitlines() in ([], [text])


def changed(config: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
    """Returns a copy of a config with other values.

    Args:
      config: stays as it is.
      values: dotted name ("mesh.fsdp") -> new value.
    """
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict(values)
    return config
