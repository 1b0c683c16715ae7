# SPDX-License-Identifier: Apache-2.0
"""Fills in fields that a config leaves open; reads the weights and latents it names.

This is the only place where values of a config are changed after its author wrote them.
"""

import dataclasses
from typing import NamedTuple

from ml_collections import ConfigDict

from ldm_jax.data.records import Source
from ldm_jax.experiment import data_metadata
from ldm_jax.experiment.config.sections import LatentSet, TextEncoderSource
from ldm_jax.experiment.lpips import read_lpips
from ldm_jax.experiment.models import make_the_same
from ldm_jax.experiment.stored_config import locate, read_config
from ldm_jax.experiment.text_encoder import (
    TrainedEncoder,
    fill_text_section,
    open_encoder,
)
from ldm_jax.experiment.training_data import (
    TrainedStage,
    TrainingData,
    latent_scale,
    open_training_data,
)
from ldm_jax.experiment.vocabulary import Vocabulary, by_part, text_section
from ldm_jax.files.paths import resolve
from ldm_jax.interop.feature_networks.lpips_file import LpipsFile
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.training.checkpoints.digest import params_fingerprint
from ldm_jax.training.checkpoints.params import load_params
from ldm_jax.training.options import LoopOptions
from ldm_jax.types import PyTree


class Inputs(NamedTuple):
    """Weights and latents that a config refers to; empty for an abstract run.

    Attributes:
      frozen: parameters that are not trained, by network: "lpips", "autoencoder",
        "conditioner".
      source: the training data: latents, or images that are encoded in every step.
      held_out: latents that a classifier is evaluated on.
      copied: first stage, text encoder and vocabulary, each with a method
        `copy_to(workdir)`: a model directory contains copies of them.
    """

    frozen: dict[str, PyTree]
    source: Source | None = None
    held_out: Source | None = None
    copied: tuple[TrainedStage | TrainedEncoder | Vocabulary, ...] = ()

    def copy_to(self, workdir: str) -> None:
        """Copies first stage, text encoder and vocabulary into a model directory.

        Raises:
          ValueError: the directory holds copies of something else.
        """
        for part in self.copied:
            part.copy_to(workdir)


def resolve_config(config: ConfigDict, *, abstract: bool) -> tuple[ConfigDict, Inputs]:
    """Fills in the open fields of a config.

    Args:
      config: checked; stays as it is.
      abstract: read no weights, and data only if the config leaves fields to it; a
        latent scale that is left open becomes 1.

    Returns:
      (a copy of the config without open fields, the weights and data that it names).

    Raises:
      ValueError: the weights or data that the config names are missing or do not fit.
    """
    # A plain copy of one with placeholders would share them with the original.
    config = config.copy_and_resolve_references().unlock()
    config.train = dataclasses.asdict(LoopOptions(**config.train))
    fill = dict(
        first_stage=_first_stage,
        latent_diffusion=_latent_diffusion,
        classifier=_classifier,
    )
    inputs = fill[config.task](config, abstract)
    return config.lock(), inputs


def _first_stage(config: ConfigDict, abstract: bool) -> Inputs:
    """Stores the fingerprint of the run's LPIPS weights in its config."""
    trunk = config.objective.get("perceptual")
    if abstract or trunk in (None, "none"):
        return Inputs({})
    source = LpipsFile(**config.get("lpips", {}))
    params, fingerprint = read_lpips(source, trunk)
    config.lpips = dict(file=source.file, fingerprint=fingerprint)
    return Inputs({"lpips": params})


def _latent_diffusion(config: ConfigDict, abstract: bool) -> Inputs:
    """Fills in the fields that data and text encoder define, and the latent scale."""
    data = _complete(config, abstract)
    stage = None if abstract else _load_first_stage(config, data)
    if config.latents.scale is None:
        config.latents.scale = stage.scale if stage is not None else 1.0
    frozen, copied = _text_encoder(config, abstract)
    if stage is None or data is None:
        return Inputs({})
    frozen["autoencoder"] = stage.params
    return Inputs(frozen, data.open_source(), copied=(*copied, stage))


def _load_first_stage(config: ConfigDict, data: TrainingData | None) -> TrainedStage:
    if data is None:
        raise ValueError(
            "a latent diffusion model learns from latents or from images: got neither "
            "config.latents.directory nor config.images.dataset; write latents with "
            "ldm-jax latents and give their directory."
        )
    autoencoder = Autoencoder(**config.autoencoder)
    return data.load_first_stage(LatentSet(**config.latents), autoencoder)


def _complete(config: ConfigDict, abstract: bool) -> TrainingData | None:
    """Opens the data, and fills in the fields of a denoiser's config that they define.

    An abstract run opens them only if there are such fields.
    """
    needs_data = data_metadata.is_open(config)
    if abstract and not needs_data:
        return None
    data = open_training_data(
        config.latents,
        config.get("images", {}),
        reads_images=data_metadata.has_open_classes(config),
    )
    if data is not None:
        data_metadata.complete(config, data.metadata)
    elif needs_data:
        raise ValueError(
            "a config that leaves its autoencoder, image size or classes open takes "
            "them from its data: got neither config.latents.directory nor "
            "config.latents.first_stage; write latents with ldm-jax latents and give "
            "their directory."
        )
    return data


def _text_encoder(config: ConfigDict, abstract: bool):
    """Fills in the fields of a text condition whose encoder is pretrained.

    Returns:
      (parameters of a pretrained encoder, by network; the vocabulary and this encoder,
      of which a model directory gets copies). Both may be empty.
    """
    section = text_section(config.condition)
    source = TextEncoderSource(**config.get("text_encoder", {}))
    if source.directory:
        section = fill_text_section(source.directory, section)
    if abstract or section is None:
        return {}, ()
    vocabulary = Vocabulary(section.to_dict())
    if not source.directory:
        return {}, (vocabulary,)
    encoder = open_encoder(source, section)
    config.text_encoder.fingerprint = encoder.fingerprint
    params = by_part(config.condition, encoder.params)
    return {"conditioner": params}, (vocabulary, encoder)


def _classifier(config: ConfigDict, abstract: bool) -> Inputs:
    """Copies autoencoder, schedule and latent scale from the model that is guided."""
    directory = config.diffusion.directory
    guided = read_config(directory, "latent_diffusion")
    for name in ("autoencoder", "schedule"):
        if name in config and not make_the_same(name, config[name], guided[name]):
            raise ValueError(
                f"config.{name} must be that of the diffusion model in {directory}: "
                f"got {dict(config[name])}, that one has {dict(guided[name])}; leave "
                "it out."
            )
        config[name] = guided[name]
    if config.latents.scale not in (None, guided.latents.scale):
        raise ValueError(
            f"config.latents.scale must be that of the diffusion model in {directory}, "
            f"{guided.latents.scale}: got {config.latents.scale}; leave it out."
        )
    config.latents.scale = guided.latents.scale
    if config.latents.image_size is None:
        config.latents.image_size = guided.latents.image_size
    if config.classifier.get("num_classes") is None:
        if "num_classes" not in guided.condition:
            raise ValueError(
                f"config.classifier.num_classes must be given: the diffusion model in "
                f"{directory} has no classes."
            )
        config.classifier.num_classes = guided.condition.num_classes
    if not config.get("class_names"):
        config.class_names = tuple(guided.condition.get("class_names", ()))
    if abstract:
        return Inputs({})
    data = open_training_data(config.latents, {})
    stage = _load_first_stage(config, data)
    held_out = _held_out_latents(config)
    first_stage = f"{locate(directory)}/autoencoder"
    if resolve(first_stage).exists():
        expected = params_fingerprint(
            {"autoencoder": load_params(first_stage)["autoencoder"]}
        )
        _check_same_stage("latents.directory", data, expected, directory)
    if held_out is not None:
        expected = _fingerprint_of_stage(data)
        _check_same_stage("held_out_latents", held_out, expected, directory)
    sources = [part.source if part else None for part in (data, held_out)]
    return Inputs({}, *sources, copied=(stage,))


def _held_out_latents(config: ConfigDict) -> TrainingData | None:
    """Opens the latents that a classifier is evaluated on; refuses other shapes."""
    if not config.get("held_out_latents"):
        return None
    data = open_training_data({"directory": config.held_out_latents}, {})
    assert data is not None and data.stats is not None  # they have a directory
    expected = LatentSet(**{**config.latents, "directory": data.where})
    autoencoder = Autoencoder(**config.autoencoder)
    latent_scale(expected, autoencoder, data.stats.scale, data.shapes)
    return data


def _fingerprint_of_stage(data: TrainingData | None) -> str:
    """Returns the fingerprint of the first stage that wrote latents."""
    assert data is not None and data.stats is not None  # no images, see `_classifier`
    return data.stats.autoencoder


def _check_same_stage(
    field: str, data: TrainingData | None, expected: str, guided: str
) -> None:
    """Refuses latents of another first stage than that of the model that is guided."""
    if _fingerprint_of_stage(data) != expected:
        raise ValueError(
            f"config.{field} must be latents of the first stage of the diffusion model "
            f"in {guided}: got {data and data.where}, written by other parameters; "
            "write them with that --model (ldm-jax latents)."
        )
