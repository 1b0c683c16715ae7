# SPDX-License-Identifier: Apache-2.0
"""Loads models with their parameters from model directories."""

from collections.abc import Mapping
from typing import Any, Literal, overload

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from ldm_jax.conditions.registry import make_condition
from ldm_jax.experiment.models import (
    field_differences,
    make_classifier,
    make_first_stage,
    make_latent_diffusion,
    stage_differences,
)
from ldm_jax.experiment.stored_config import as_config, locate, read_config
from ldm_jax.experiment.vocabulary import by_part, text_section
from ldm_jax.files.errors import UnreadableFile, naming, shown
from ldm_jax.files.paths import PathLike, resolve
from ldm_jax.interop.networks import NoNames, network_rows
from ldm_jax.interop.own_files import check_rows, flatten
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.tasks.classifier import NoisyLatentClassifier
from ldm_jax.tasks.model import (
    ConditionEncoder,
    FirstStage,
    LatentDiffusion,
    with_frozen,
)
from ldm_jax.training.checkpoints.params import load_params
from ldm_jax.types import PyTree

# What a run may decide about a text encoder that it does not train.
FREE = ("dtype", "merges", "vocab")


@overload
def load(
    directory: str,
    which: str = ...,
    step: int | None = ...,
    *,
    task: Literal["first_stage"],
) -> tuple[FirstStage, PyTree]: ...


@overload
def load(
    directory: str,
    which: str = ...,
    step: int | None = ...,
    *,
    task: Literal["latent_diffusion"],
) -> tuple[LatentDiffusion, PyTree]: ...


@overload
def load(
    directory: str,
    which: str = ...,
    step: int | None = ...,
    *,
    task: Literal["classifier"],
) -> tuple[NoisyLatentClassifier, PyTree]: ...


@overload
def load(
    directory: str, which: str = ..., step: int | None = ..., *, task: None = ...
) -> tuple[LatentDiffusion | Any, PyTree]: ...


def load(
    directory: str,
    which: str = "ema",
    step: int | None = None,
    *,
    task: str | None = None,
) -> tuple[FirstStage | Any, PyTree]:
    """Loads a model, trained here or imported.

    Args:
      directory: contains config.json and checkpoints/; that of a diffusion model also
        autoencoder/ and, with a pretrained text encoder, text_encoder/. Or the name of
        a model of the package, "digits".
      which: "ema" loads averaged parameters if there are any, "raw" the trained ones.
      step: of the checkpoint; None takes the newest undamaged one.
      task: what the model must be, see `read_config`; None takes every model.

    Returns:
      (FirstStage, LatentDiffusion, NoisyLatentClassifier or ConditionEncoder, params):
      frozen spec, pytree of NumPy arrays. Type checkers assume a LatentDiffusion, which
      has the methods of a FirstStage and of a ConditionEncoder, unless it is annotated
      otherwise.

    Raises:
      ValueError: not a model directory, the model is of another task, the parameters
        are not those of the model in config.json, or it describes another first stage
        or text encoder than those in autoencoder/ and text_encoder/.
      FileNotFoundError: it holds no undamaged checkpoint.
    """
    directory = locate(directory)
    config = read_config(directory, task)
    with naming(resolve(directory) / "config.json"):
        model = make_model(config)
    params = load_params(directory, which, step)
    if config.task == "first_stage":
        params = {"autoencoder": params.get("autoencoder", {})}
    if config.task == "latent_diffusion":
        params = with_frozen(params, _frozen(directory, config))
    _check_params(config.to_dict(), flatten(params), directory)
    return model, params


def _check_params(
    settings: Mapping[str, Any], flat: Mapping[str, np.ndarray], directory: str
) -> None:
    """Raises ValueError unless the arrays are those of the model in the settings.

    Two parts are not checked: a first stage that is not stored, and a user's own kind
    of condition, whose parameters have names that are not known here.
    """
    with naming(resolve(directory) / "config.json"):
        try:
            rows = network_rows(settings)
        except NoNames:
            rows = network_rows({**settings, "condition": {"kind": "none"}})
    if settings["task"] != "first_stage" and not any(
        name.startswith("autoencoder/") for name in flat
    ):
        rows.pop("autoencoder", None)
    check_rows(rows, flat, directory)


def _frozen(directory: str, config: ConfigDict) -> dict[str, PyTree]:
    """Loads the networks of a diffusion model that were not trained with it."""
    frozen: dict[str, PyTree] = {"autoencoder": {}}
    stage, encoder = (resolve(directory) / n for n in ("autoencoder", "text_encoder"))
    if stage.exists():
        stored = Autoencoder(**read_config(str(stage), "first_stage").autoencoder)
        odd = stage_differences(Autoencoder(**config.autoencoder), stored)
        _check_part("autoencoder", odd, directory, stage)
        frozen["autoencoder"] = load_params(stage)["autoencoder"]
    section = text_section(config.condition)
    if encoder.exists() and section is not None:
        source = read_config(str(encoder), "text_encoder")
        conditions = make_condition(**section), make_condition(**source.condition)
        odd = field_differences(*conditions, (*FREE, "is_frozen"))
        _check_part("condition", odd, directory, encoder)
        frozen["conditioner"] = by_part(
            config.condition, load_params(encoder)["conditioner"]
        )
    return frozen


def _check_part(
    section: str,
    differing: Mapping[str, tuple[Any, Any]],
    directory: str,
    folder: epath.Path,
) -> None:
    """Raises UnreadableFile if a network in a folder has other settings than its copy.

    Args:
      section: of the model's settings that describes the network.
      differing: {field: (value of the section, value in the folder)}.
      directory: of the model.
      folder: in it, which holds the network.
    """
    if differing:
        lines = [
            f"{section}.{name} is {shown(given)}, there {shown(stored)}"
            for name, (given, stored) in differing.items()
        ]
        raise UnreadableFile(
            f"{resolve(directory) / 'config.json'} must describe the network in "
            f"{folder / 'config.json'}: {'; '.join(lines)}. Take both from the same "
            "model."
        )


def check_model(settings: Mapping[str, Any], directory: str, source: PathLike) -> None:
    """Raises an error if no model can be made of settings, before they are written.

    Args:
      settings: of a model directory.
      directory: the future model directory; contains the tokenizer's files already.
      source: the file or folder that the settings were read from, for the error.

    Raises:
      UnreadableFile: names `source` and the value.
    """
    with naming(source):
        make_model(as_config(settings, directory))


def make_model(config: ConfigDict):
    """Makes the model of a model directory, without parameters; see `load`."""
    if config.task == "text_encoder":
        return ConditionEncoder(conditioner=make_condition(**config.condition))
    makers = {"first_stage": make_first_stage, "classifier": make_classifier}
    return makers.get(config.task, make_latent_diffusion)(config)
