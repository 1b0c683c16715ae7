# SPDX-License-Identifier: Apache-2.0
"""Reads model directories: their settings, and models with their parameters."""

from collections.abc import Mapping
from typing import Any, Literal, overload

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from ldm_jax.conditions.registry import make_condition
from ldm_jax.experiment.config.schema import check_config
from ldm_jax.experiment.config.sections import LatentSet
from ldm_jax.experiment.models import (
    field_differences,
    make_classifier,
    make_first_stage,
    make_latent_diffusion,
    stage_differences,
)
from ldm_jax.experiment.vocabulary import by_part, files_of, text_section
from ldm_jax.files.errors import MissingFile, UnreadableFile, naming, shown
from ldm_jax.files.formats.structured import read_json
from ldm_jax.files.paths import PathLike, resolve
from ldm_jax.files.stores.store_errors import reaching
from ldm_jax.interop.networks import NoNames, network_rows
from ldm_jax.interop.own_files import check_rows, flatten
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.pretrained import FOLDER, pretrained_names
from ldm_jax.tasks.classifier import NoisyLatentClassifier
from ldm_jax.tasks.model import (
    ConditionEncoder,
    FirstStage,
    LatentDiffusion,
    with_frozen,
)
from ldm_jax.tasks.sampling import Sampling, make_sampling, replace_sampling
from ldm_jax.training.checkpoints.params import load_params
from ldm_jax.types import PyTree

# What a run may decide about a text encoder that it does not train.
FREE = ("dtype", "merges", "vocab")
# Models that an error names in a directory that is none.
SHOWN_MODELS = 5


def locate(directory: str) -> str:
    """Returns the path of a model directory, or of a model of the package by name.

    If a directory has the name too, it is taken.
    """
    if directory not in pretrained_names():
        return directory
    is_name = not resolve(directory).exists()
    return str(FOLDER / directory) if is_name else directory


def _models_inside(folder: epath.Path) -> list[str]:
    """Lists the model directories in a folder, such as that of a quickstart."""
    if not folder.is_dir():
        return []
    models = [path.name for path in folder.iterdir() if (path / "config.json").exists()]
    return sorted(models)[:SHOWN_MODELS]


def read_config(directory: str, task: str | None = None) -> ConfigDict:
    """Reads the settings of a model directory.

    Args:
      directory: written by training, or imported.
      task: what the model must be, a key of `schema.SECTIONS`; None takes any.

    Raises:
      ValueError: it is not a model directory, its settings are not those of a model, or
        the model is of another task.
      StoreError: a URL that cannot be read.
    """
    path = resolve(locate(directory)) / "config.json"
    with reaching(directory):
        is_there = path.exists()
        inside = [] if is_there else _models_inside(path.parent)
    if not is_there:
        instead = f"the models inside it are {', '.join(inside)}; " if inside else ""
        raise MissingFile(
            f"{directory} is not a model directory: it has no config.json; {instead}"
            "give the --workdir of `ldm-jax train`, the --out of `ldm-jax import`, or "
            f"the name of a model of the package: {', '.join(pretrained_names())}."
        )
    content = read_json(path)
    if empty := [name for name, entry in content.items() if entry is None]:
        raise UnreadableFile(
            f"{path} must have settings in every section: {', '.join(empty)} is null; "
            "it is damaged. Train or import the model again."
        )
    with naming(path, "must hold the settings of a model"):
        settings = _tuples(content)
        check_config(settings)  # first: a ConfigDict takes no name with a dot
        config = ConfigDict(settings)
    if task not in (None, config.task):
        raise ValueError(
            f"this needs a model of the task {task}: {directory} holds one of the task "
            f"{config.task}; give another directory."
        )
    with naming(path):
        _set_vocabulary(config, directory)
        if "sampling" in config:
            make_sampling(**config.sampling)  # finds values out of range
    return config


def _set_vocabulary(config: ConfigDict, directory: str) -> None:
    """Replaces the names of a tokenizer's files by their paths in a directory."""
    section = text_section(config.get("condition", {}))
    if section is not None:
        section.update(files_of(directory, section))


def _tuples(value) -> Any:
    """Converts the lists of JSON to tuples, as configs have them."""
    if isinstance(value, dict):
        return {name: _tuples(entry) for name, entry in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def first_stage_of(directory: str) -> tuple[str, ConfigDict]:
    """Finds a first stage: the model itself, or that inside a diffusion model.

    Returns:
      (its directory, its settings).

    Raises:
      ValueError: there is none.
    """
    directory = locate(directory)
    if read_config(directory).task == "latent_diffusion":
        inside = f"{directory}/autoencoder"
        if not resolve(inside).exists():
            raise ValueError(
                f"{directory} has no first stage: it makes its images without one, or "
                "was imported without; name another --model."
            )
        directory = inside
    return directory, read_config(directory, "first_stage")


def read_sampling(directory: str, changes: Mapping[str, Any]) -> Sampling:
    """Returns how a diffusion model is sampled, with some settings replaced.

    Args:
      directory: of the model.
      changes: fields of `Sampling`, or options of its sampler, by name.
    """
    return replace_sampling(read_config(directory).sampling.to_dict(), changes)


def latent_shape(directory: str) -> tuple[int, int, int]:
    """Returns (h, w, c) of the latents that a diffusion model was trained on."""
    config = read_config(directory)
    with naming(resolve(directory) / "config.json"):
        autoencoder = Autoencoder(**config.autoencoder)
        return LatentSet(**config.latents).latent_shape(autoencoder)


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
        check_config(settings)
        config = ConfigDict(_tuples(dict(settings)))
        _set_vocabulary(config, directory)
        make_model(config)


def make_model(config: ConfigDict):
    """Makes the model of a model directory, without parameters; see `load`."""
    if config.task == "text_encoder":
        return ConditionEncoder(conditioner=make_condition(**config.condition))
    makers = {"first_stage": make_first_stage, "classifier": make_classifier}
    return makers.get(config.task, make_latent_diffusion)(config)
