# SPDX-License-Identifier: Apache-2.0
"""Makes the models and the transforms that a config describes, without parameters."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from ml_collections import ConfigDict

from ldm_jax.conditions.fields import FirstStageFields
from ldm_jax.conditions.registry import make_condition
from ldm_jax.data.latents.source import LatentTransform
from ldm_jax.data.transforms.image_transform import ImageTransform
from ldm_jax.diffusion.schedule import make_schedule, same_schedule
from ldm_jax.experiment.config.sections import LatentSet
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.classifier import LatentClassifier
from ldm_jax.models.unet import UNet
from ldm_jax.tasks.classifier import NoisyLatentClassifier
from ldm_jax.tasks.model import FirstStage, LatentDiffusion


def make_first_stage(config) -> FirstStage:
    """Makes the first stage that `config.autoencoder` describes."""
    return FirstStage(Autoencoder(**config.autoencoder))


def make_latent_diffusion(config, latent_scale: float | None = None) -> LatentDiffusion:
    """Makes the diffusion model that a latent-diffusion config describes.

    Args:
      config: of the task "latent_diffusion".
      latent_scale: None takes `config.latents.scale`.

    Raises:
      ValueError: neither is given, or the settings contradict each other.
    """
    autoencoder = Autoencoder(**config.autoencoder)
    latents = LatentSet(**config.latents)
    scale = latents.scale if latent_scale is None else latent_scale
    if scale is None:
        raise ValueError(
            "config.latents.scale must be a number above 0 where a model is made: got "
            "None; 1 / the standard deviation of the latents, 1.0 for pixels and VQ."
        )
    return LatentDiffusion(
        autoencoder,
        scale,
        unet=UNet(**{"out_channels": autoencoder.embed_channels, **config.unet}),
        conditioner=make_condition(
            **config.condition, first_stage=FirstStageFields(autoencoder, scale)
        ),
        schedule=make_schedule(**config.schedule),
        prediction=config.prediction,
        schedule_settings=dict(config.schedule),
    )


def make_classifier(config) -> NoisyLatentClassifier:
    """Makes the classifier that a resolved config of the task "classifier" describes.

    Raises:
      ValueError: the latents are not square.
    """
    autoencoder = Autoencoder(**config.autoencoder)
    height, width, c = LatentSet(**config.latents).latent_shape(autoencoder)
    if height != width:
        raise ValueError(
            "a classifier reads square latents: got config.latents.image_size="
            f"{config.latents.image_size}."
        )
    sizes = dict(latent_size=height, latent_channels=c)
    return NoisyLatentClassifier(
        autoencoder,
        config.latents.scale,
        classifier=LatentClassifier(**{**config.classifier, **sizes}),
        schedule=make_schedule(**config.schedule),
        schedule_settings=dict(config.schedule),
        class_names=tuple(config.get("class_names") or ()),
    )


def make_the_same(name: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Returns whether two sections make the same part of a model.

    A field that one of them leaves out has its default.

    Args:
      name: "autoencoder" or "schedule".
      a, b: the sections.
    """
    if name == "autoencoder":
        return not stage_differences(Autoencoder(**a), Autoencoder(**b))
    return same_schedule(make_schedule(**a), make_schedule(**b))


def stage_differences(
    a: Autoencoder, b: Autoencoder
) -> dict[str, tuple[object, object]]:
    """Compares the fields on which the results of first stages depend.

    Returns:
      {field: (its value in `a`, its value in `b`)} of those that differ.
    """
    a, b = (stage.clone(embed_dim=stage.embed_channels) for stage in (a, b))
    # How it was initialised, or saves memory, is left out.
    return field_differences(a, b, ("name", "parent", "remat", "code_range"))


def field_differences(
    a: Any, b: Any, ignored: Collection[str]
) -> dict[str, tuple[object, object]]:
    """Compares two objects of one dataclass, except for some fields, as above."""
    names = [x.name for x in dataclasses.fields(a) if x.name not in ignored]
    pairs = {name: (getattr(a, name), getattr(b, name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def make_transform(config, **changes) -> ImageTransform:
    """Makes the image transform of a diffusion config; `latents` sets size and flip."""
    fields = dict(image_size=config.latents.image_size, flip=config.latents.flip)
    return ImageTransform(**{**fields, **config.get("transform", {}), **changes})


def make_example_transform(config) -> ImageTransform | LatentTransform:
    """Makes the transform of a diffusion config's data: of latents, or of images."""
    if not config.latents.directory:
        return make_transform(config)
    mask = config.get("transform", {}).get("mask")
    return LatentTransform(config.latents.flip, mask)


def still_transform(
    fields: Mapping[str, Any], size: tuple[int, int] | None = None
) -> ImageTransform:
    """Makes a transform without randomness: centered crops, not mirrored.

    Args:
      fields: of the `ImageTransform` in training.
      size: (height, width) of the images; None is that of training.
    """
    fixed: dict[str, Any] = dict(
        crop="center", min_scale=1.0, max_scale=1.0, flip=False
    )
    if size is not None:
        fixed["image_size"] = size
    return ImageTransform(**{**fields, **fixed})


def training_images(
    config: ConfigDict,
    size: tuple[int, int] | None = None,
    *,
    held_out: bool = False,
) -> tuple[dict[str, Any], ImageTransform]:
    """Returns the images that a first stage was trained on.

    Args:
      config: of the first stage.
      size: (height, width) of the transform; None is that of training.
      held_out: take the split that it did not learn from, where it has one.

    Returns:
      (arguments of `open_images`, a transform without randomness).
      "dataset" is "" in an imported model.
    """
    images = dict(config.images)
    if held_out and config.get("held_out"):
        images["split"] = config.held_out
    return images, still_transform(config.transform, size)


def held_out_images(config: ConfigDict) -> tuple[dict[str, Any], ImageTransform] | None:
    """Returns the images that a first stage did not learn from; None without any."""
    return training_images(config, held_out=True) if config.get("held_out") else None
