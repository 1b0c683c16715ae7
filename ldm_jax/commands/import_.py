# SPDX-License-Identifier: Apache-2.0
"""Imports models of other frameworks as model directories."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from ldm_jax.experiment.config import config_files, schema
from ldm_jax.experiment.model_directory import check_model
from ldm_jax.experiment.models import make_classifier
from ldm_jax.experiment.resolve import resolve_config
from ldm_jax.experiment.save_model import (
    model_sections,
    model_settings,
    new_model_directory,
    write_model,
)
from ldm_jax.experiment.vocabulary import add_vocabulary
from ldm_jax.files.paths import inside
from ldm_jax.files.writing import write_bytes
from ldm_jax.interop.compvis.classifier import import_classifier
from ldm_jax.interop.convert import import_model
from ldm_jax.interop.hub import find_source
from ldm_jax.interop.own_files import holds_own, read_own
from ldm_jax.interop.weight_files import read_weights
from ldm_jax.training.checkpoints.params import save_params


class ImportReport(NamedTuple):
    """Summary of an import.

    Attributes:
      task: "first_stage", "latent_diffusion", "text_encoder" or "classifier".
      used: "ema" or "raw", which of the weights were taken.
      notes: sentences on what was changed, or not taken over.
    """

    task: str
    used: str
    notes: tuple[str, ...]


def import_weights(
    source: str,
    out: str,
    config: str | None = None,
    which: str = "ema",
    vocab: str | None = None,
    merges: str | None = None,
    image_size: int | None = None,
    overrides: Sequence[str] = (),
    key: str | None = None,
) -> ImportReport:
    """Imports a published model as a model directory.

    Args:
      source: a CompVis checkpoint (.ckpt, .safetensors), a diffusers folder, an export
        of ours, or such a repository of the Hub, see `interop.hub.find_source`.
      out: model directory to write, new or empty.
      config: the original's YAML, or one of our configs (NAME or FILE.py); None looks
        next to the checkpoint. A folder describes itself.
      which: "ema" takes moving averages where there are any, "raw" never.
      vocab, merges: files of a text model's tokenizer, which a checkpoint does not
        hold; they are copied into the directory.
      image_size: side of the images that `sample` makes by default; None takes what
        the source says, else 256.
      key: where a checkpoint holds the tensors, see `weight_files.read_weights`.
      overrides: "--config.section.field=value", of one of our configs.

    Raises:
      ValueError: names, shapes, schedule or config do not fit, the file is unsafe, the
        scale of the latents is nowhere, or `out` is taken; nothing is written.
      OSError: nothing can be written there; before anything is read or downloaded.
    """
    with new_model_directory(out) as folder:
        return _import_into(
            folder,
            os.fspath(find_source(source)),
            config,
            which,
            {"vocab": vocab, "merges": merges},
            image_size,
            overrides,
            key,
        )


def _import_into(
    folder: str,
    source: str,
    config: str | None,
    which: str,
    files: dict[str, str | None],
    image_size: int | None,
    overrides: Sequence[str],
    key: str | None,
) -> ImportReport:
    """Imports a model into a folder; arguments and errors of `import_weights`."""
    if holds_own(source):
        return _import_own(source, folder, config)
    described: Any = config
    if config is not None and config_files.is_config(config):
        loaded = config_files.load_config(config, overrides)
        if loaded.task == "classifier":
            return _import_classifier(source, folder, loaded, key)
        described = model_sections(loaded)
    elif overrides:
        raise ValueError(
            f"{overrides[0]} replaces a value of one of our configs: got "
            f"{config or 'none'}; leave it out."
        )
    imported = import_model(source, described, which, key)
    if "task" not in imported.spec:
        raise ValueError(
            "a model directory holds a first stage, a diffusion model or a text "
            f"encoder: {source} is the {imported.spec['condition']['kind']} "
            "condition of a model; import the folder of the whole pipeline."
        )
    if imported.spec.get("latent_scale", 1.0) is None:
        raise ValueError(
            f"the scale of the latents must be known: {source} holds none, and "
            f"{config} none either; give --config.latents.scale (0.18215 for "
            "txt2img-1.4B), or the original's YAML."
        )
    size = image_size or imported.image_size
    settings = model_settings(imported.spec, size)
    notes = add_vocabulary(folder, settings, files)
    check_model(settings, folder, source)
    write_model(folder, imported.spec, imported.params, settings)
    return ImportReport(settings["task"], imported.used, (*imported.notes, *notes))


def _import_own(source: str, folder: str, config: str | None) -> ImportReport:
    """Imports a model that `ldm-jax export` wrote under our own names."""
    if config is not None:
        raise ValueError(
            f"{source} contains its settings: got --config={config}; leave it out."
        )
    settings, params, files = read_own(source)
    for name, data in files.items():
        write_bytes(inside(folder, name), data)
    check_model(settings, folder, source)
    write_model(folder, settings, params, settings)
    return ImportReport(settings["task"], "ema", ())


def _import_classifier(source: str, folder: str, config, key) -> ImportReport:
    """Imports a classifier for the diffusion model that its config names.

    Raises:
      ValueError: there is no such model, or the tensors do not fit the config; by name.
    """
    schema.check_config(config)
    settings, _ = resolve_config(config, abstract=True)
    model = make_classifier(settings)
    params = import_classifier(read_weights(source, key), model.classifier)
    save_params(folder, {"classifier": params}, settings.to_dict())
    return ImportReport("classifier", "raw", ())
