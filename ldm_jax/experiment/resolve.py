# SPDX-License-Identifier: Apache-2.0
"""Resolves what a config leaves open, and reads the weights and latents it names.

This is the only place where values of a config are changed after its author wrote them.
"""

import dataclasses
from typing import NamedTuple

from ml_collections import ConfigDict

from ldm_jax.data.records import Source
from ldm_jax.experiment import data_metadata
from ldm_jax.experiment.config.sections import LatentSet, TextEncoderSource
from ldm_jax.experiment.first_stage_source import TrainedStage, open_stage
from ldm_jax.experiment.lpips import read_lpips
from ldm_jax.experiment.model_directory import read_config
from ldm_jax.experiment.text_encoder import TrainedEncoder, encoder_fields, open_encoder
from ldm_jax.experiment.vocabulary import Vocabulary, by_part, text_section
from ldm_jax.interop.feature_networks.lpips_file import LpipsFile
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.training.options import LoopOptions
from ldm_jax.types import PyTree


class Inputs(NamedTuple):
    """Weights and latents that a config refers to; empty for an abstract run.

    Attributes:
      frozen: parameters that are read and never trained, by network: "lpips",
        "autoencoder", "conditioner".
      latents: to learn from; None where images are encoded in every step.
      copied: what a model needs in addition to its own parameters, each with a method
        `copy_to(workdir)`.
    """

    frozen: dict[str, PyTree]
    latents: Source | None = None
    copied: tuple[TrainedStage | TrainedEncoder | Vocabulary, ...] = ()

    def copy_to(self, workdir: str) -> None:
        """Copies what a model needs besides its own parameters into its directory.

        Raises:
          ValueError: the directory holds copies of something else.
        """
        for part in self.copied:
            part.copy_to(workdir)


def resolve_config(config: ConfigDict, *, abstract: bool) -> tuple[ConfigDict, Inputs]:
    """Fills in the open fields of a config.

    Args:
      config: checked; stays as it is.
      abstract: read no weights and no data; the latents' scale becomes 1 if open.

    Returns:
      (a copy of the config with nothing left open, what it names).

    Raises:
      ValueError: what the config names is missing, or does not fit it.
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
    """Fills in the text condition's fields, which encoder that is, and the scale.

    Also what the config leaves to the metadata of its data, see `data_metadata`.
    """
    _complete(config, abstract)
    encoder = TextEncoderSource(**config.get("text_encoder", {}))
    if encoder.directory:
        fields = encoder_fields(encoder.directory, config.condition)
        section = text_section(config.condition)
        assert section is not None  # else encoder_fields had refused it
        section.update(fields)
    if abstract:
        if config.latents.scale is None:
            config.latents.scale = 1.0
        return Inputs({})
    frozen, copied = {}, []
    words = text_section(config.condition)
    if words is not None:
        copied.append(Vocabulary(words.to_dict()))
    if encoder.directory:
        trained = open_encoder(encoder, config.condition)
        config.text_encoder.fingerprint = trained.fingerprint
        frozen["conditioner"] = by_part(config.condition, trained.params)
        copied.append(trained)
    latent_set = LatentSet(**config.latents)
    if not latent_set.directory and not config.get("images", {}).get("dataset"):
        raise ValueError(
            "a diffusion model learns from latents or from images: got neither "
            "config.latents.directory nor config.images.dataset; write latents with "
            "ldm-jax latents and give their directory."
        )
    stage = open_stage(latent_set, Autoencoder(**config.autoencoder))
    config.latents.scale = stage.scale
    frozen["autoencoder"] = stage.params
    return Inputs(frozen, stage.latents, (*copied, stage))


def _complete(config: ConfigDict, abstract: bool) -> None:
    """Completes a denoiser's config with the metadata of its data."""
    if abstract and not data_metadata.is_open(config):
        return  # the data need not be there
    metadata = data_metadata.read_data_metadata(config)
    if metadata is not None:
        data_metadata.complete(config, metadata)
    elif data_metadata.is_open(config):
        raise ValueError(
            "a config that leaves its autoencoder, image size or classes open takes "
            "them from its data: got neither config.latents.directory nor "
            "config.latents.first_stage; write latents with ldm-jax latents and give "
            "their directory."
        )


def _classifier(config: ConfigDict, abstract: bool) -> Inputs:
    """Takes autoencoder, schedule and latent scale from the model that is guided."""
    directory = config.diffusion.directory
    guided = read_config(directory, "latent_diffusion")
    for name in ("autoencoder", "schedule"):
        if name in config and dict(config[name]) != dict(guided[name]):
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
    stage = open_stage(LatentSet(**config.latents), Autoencoder(**config.autoencoder))
    return Inputs({}, stage.latents, (stage,))
