# SPDX-License-Identifier: Apache-2.0
"""Opens the trained first stage of a diffusion model, and the latents it encoded."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ldm_jax.data.latents import sets
from ldm_jax.data.records import Source
from ldm_jax.experiment.config.sections import LatentSet
from ldm_jax.experiment.model_directory import first_stage_of
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.training.checkpoints.checkpointer import load_params, save_params
from ldm_jax.training.checkpoints.digest import params_fingerprint
from ldm_jax.types import PyTree


class TrainedStage(NamedTuple):
    """A pretrained first stage.

    Attributes:
      params: its parameters; {} for pixels, which need none.
      config: its settings; None for pixels.
      latents: what it encoded; None where images are encoded in every step.
      scale: that gives the latents unit variance.
    """

    params: PyTree
    config: Mapping[str, Any] | None
    latents: Source | None
    scale: float

    def copy_to(self, workdir: str) -> None:
        """Copies the first stage to autoencoder/ of a run, unless it exists."""
        if self.config is not None:
            params = {"autoencoder": self.params}
            save_params(f"{workdir}/autoencoder", params, self.config)


def open_stage(latent_set: LatentSet, autoencoder: Autoencoder) -> TrainedStage:
    """Opens the latents that a config names, or the first stage that encodes images.

    Args:
      latent_set: the section `latents`.
      autoencoder: of the section `autoencoder`.

    Raises:
      ValueError: neither latents nor a first stage is named, they do not fit the
        config, or the latents were written by another first stage.
    """
    if latent_set.directory:
        return _open_latents(latent_set, autoencoder)
    if latent_set.scale is None:
        raise ValueError(
            "config.latents.scale must be given where images are encoded in every "
            "step: 1.0 for pixels and for the published VQ models; else ldm-jax "
            "latents measures it."
        )
    if autoencoder.bottleneck == "pixels":
        return TrainedStage({}, None, None, latent_set.scale)
    if not latent_set.first_stage:
        raise ValueError(
            "config.latents.first_stage must be the directory of the first stage that "
            "encodes the images: got none; or set config.latents.directory to latents."
        )
    params, config = _read_stage(latent_set.first_stage, autoencoder)
    return TrainedStage(params, config, None, latent_set.scale)


def _open_latents(latent_set: LatentSet, autoencoder: Autoencoder) -> TrainedStage:
    source, stats, shapes = sets.open_latent_sets(
        latent_set.directory, latent_set.weights
    )
    directory = sets.directories(latent_set.directory)[0]
    params, config = _read_stage(f"{directory}/autoencoder", autoencoder)
    stats.check(params_fingerprint({"autoencoder": params}), directory)
    scale = latent_scale(latent_set, autoencoder, stats.scale, shapes)
    return TrainedStage(params, config, source, scale)


def latent_scale(
    latent_set: LatentSet,
    autoencoder: Autoencoder,
    measured: float,
    shapes: Sequence[tuple[int, int, int]],
) -> float:
    """Returns the scale of latents: the config's, or the one that was measured.

    Args:
      latent_set, autoencoder: of the config.
      measured: 1 / standard deviation of the raw latents.
      shapes: (h, w, c) of the latents, of each bucket.

    Raises:
      ValueError: the latents are not of the size that the config describes.
    """
    expected = latent_set.latent_shape(autoencoder)
    if expected not in shapes:
        raise ValueError(
            f"config.latents.image_size={latent_set.image_size} and "
            f"config.autoencoder make latents of {expected}: those in "
            f"{latent_set.directory} are {', '.join(map(str, shapes))}; "
            "change the config, or write latents of that size (ldm-jax latents)."
        )
    return measured if latent_set.scale is None else latent_set.scale


def _read_stage(directory: str, autoencoder: Autoencoder):
    """Returns (parameters, settings) of a first stage that must be the config's."""
    directory, settings = first_stage_of(directory)
    given, stored = _fields(autoencoder), _fields(Autoencoder(**settings.autoencoder))
    differing = [name for name in given if given[name] != stored[name]]
    if differing:
        raise ValueError(
            f"config.autoencoder must be the first stage in {directory}: got "
            f"{', '.join(f'{n}={given[n]!r}' for n in differing)}, that one has "
            f"{', '.join(f'{n}={stored[n]!r}' for n in differing)}; copy its section, "
            "or write latents with yours (ldm-jax latents)."
        )
    return load_params(directory)["autoencoder"], settings.to_dict()


def _fields(autoencoder: Autoencoder) -> dict[str, Any]:
    """Lists the fields on which the results of an autoencoder depend."""
    # How it was initialised, or saves memory, is left out.
    unimportant = ("name", "parent", "remat", "code_range")
    fields = {
        field.name: getattr(autoencoder, field.name)
        for field in dataclasses.fields(autoencoder)
        if field.name not in unimportant
    }
    return {**fields, "embed_dim": autoencoder.embed_channels}
