# SPDX-License-Identifier: Apache-2.0
"""Reads the settings of model directories (config.json)."""

from collections.abc import Mapping
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from ldm_jax.experiment.config.schema import check_config
from ldm_jax.experiment.config.sections import LatentSet
from ldm_jax.experiment.vocabulary import files_of, text_section
from ldm_jax.files.errors import MissingFile, UnreadableFile, naming
from ldm_jax.files.formats.structured import read_json
from ldm_jax.files.paths import resolve
from ldm_jax.files.stores.store_errors import reaching
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.pretrained import FOLDER, pretrained_names
from ldm_jax.tasks.sampling import Sampling, make_sampling, replace_sampling

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
        config = as_config(content, directory)
    if task not in (None, config.task):
        raise ValueError(
            f"this needs a model of the task {task}: {directory} holds one of the task "
            f"{config.task}; give another directory."
        )
    if "sampling" in config:
        with naming(path):
            make_sampling(**config.sampling)  # finds values out of range
    return config


def as_config(settings: Mapping[str, Any], directory: str) -> ConfigDict:
    """Converts the settings of a model directory to a config.

    Args:
      settings: nested dicts, with lists where configs have tuples.
      directory: holds the files of the tokenizer, if the model has one.

    Raises:
      ValueError: the settings are not those of a model, or a file is missing.
    """
    settings = _tuples(dict(settings))
    check_config(settings)  # first: a ConfigDict takes no name with a dot
    config = ConfigDict(settings)
    section = text_section(config.get("condition", {}))
    if section is not None:
        section.update(files_of(directory, section))
    return config


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
