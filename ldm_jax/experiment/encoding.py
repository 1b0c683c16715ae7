# SPDX-License-Identifier: Apache-2.0
"""Chooses the images that a first stage encodes, and the fields stored with latents."""

from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from ldm_jax.conditions.base import Condition
from ldm_jax.conditions.kinds.unconditional import Unconditional
from ldm_jax.data.images.image_sets import open_images
from ldm_jax.data.records import Source
from ldm_jax.data.transforms.image_transform import ImageTransform
from ldm_jax.experiment import data_metadata
from ldm_jax.experiment.config.schema import check_config
from ldm_jax.experiment.models import (
    make_latent_diffusion,
    make_transform,
    training_images,
)
from ldm_jax.experiment.training_data import TrainingData


class Encoding(NamedTuple):
    """The images to encode, and the condition that is stored with their latents.

    Attributes:
      images: arguments of `open_images`.
      source: the images, opened.
      transform: of the images.
      condition: of the diffusion model that will learn from the latents.
      flip: whether that model mirrors images.
    """

    images: dict[str, Any]
    source: Source
    transform: ImageTransform
    condition: Condition = Unconditional()
    flip: bool = False


def open_encoding(
    model_dir: str,
    stage: ConfigDict,
    config: ConfigDict | None,
    images: str | None,
    split: str | None,
    manual_dir: str | None,
    attach: Callable[[Source], Source] = lambda source: source,
) -> Encoding:
    """Opens the images of a first stage, or those of a diffusion config.

    Args:
      model_dir: of the first stage.
      stage: its settings.
      config: of a diffusion model that will learn from the latents; None for none.
      images, split, manual_dir: of `open_images`; None takes those of the config, or
        of the first stage.
      attach: (image source) -> source whose records have more fields.

    Raises:
      ValueError: neither names images, or there are no such images.
    """
    place: dict[str, Any] = {"manual_dir": manual_dir} if manual_dir else {}
    if config is None:
        spec, transform = images_of(stage, images, split)
        spec |= place
        return Encoding(spec, attach(open_images(**spec)), transform)
    spec = _images_of_config(config, stage, images, split) | place
    source = attach(open_images(**spec))
    config = config.copy_and_resolve_references().unlock()
    data = TrainingData(model_dir, source, model_dir)
    data_metadata.complete(config, data.metadata)
    # Mirrored both ways, and a new mask in every step: neither is decided here.
    transform = make_transform(config, flip=False, mask=None)
    # An open scale is measured when all latents are there; none depends on it.
    scale = 1.0 if config.latents.scale is None else config.latents.scale
    condition = make_latent_diffusion(config, scale).conditioner
    return Encoding(spec, source, transform, condition, config.latents.flip)


def _images_of_config(
    config: ConfigDict, stage: ConfigDict, images: str | None, split: str | None
) -> dict[str, Any]:
    """Returns the arguments of `open_images` of a diffusion config, else of a stage."""
    check_config(config)
    spec = dict(config.get("images", {}))
    if images is None and not spec.get("dataset"):
        spec |= {name: stage.images[name] for name in ("dataset", "split")}
    spec |= {"dataset": images} if images is not None else {}
    spec |= {"split": split} if split else {}
    if not spec.get("dataset"):
        raise ValueError(
            "config.images.dataset must name the images to encode: got none; give "
            "--images FOLDER."
        )
    return spec


def images_of(
    config: ConfigDict,
    images: str | None,
    split: str | None,
    size: tuple[int, int] | None = None,
    *,
    held_out: bool = False,
) -> tuple[dict[str, Any], ImageTransform]:
    """Chooses the images that a first stage encodes.

    Args:
      config: of the first stage.
      images, split: of `open_images`; None is the set that it was trained on.
      size: (height, width) of the transform; None is that of training.
      held_out: take the images that were held out of the training set.

    Returns:
      Arguments of `open_images`, and the transform.

    Raises:
      ValueError: the model was imported and `images` is None.
    """
    held_out = held_out and images is None
    spec, transform = training_images(config, size, held_out=held_out)
    spec |= {"dataset": images} if images is not None else {}
    spec |= {"split": split} if split else {}
    if not spec.get("dataset"):
        raise ValueError(
            "an imported first stage has no training images: give --images FOLDER."
        )
    return spec, transform
