# SPDX-License-Identifier: Apache-2.0
"""Reads the inputs of `ldm-jax sample`, and checks that the model accepts them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ldm_jax.conditions.base import Condition
from ldm_jax.conditions.kinds.retrieval import Retrieval
from ldm_jax.conditions.registry import condition_flags
from ldm_jax.conditions.user_inputs import to_image, to_mask
from ldm_jax.experiment.model_settings import ModelSettings


def retrieval_of(condition: Condition) -> Retrieval:
    """Returns the condition of a retrieval model."""
    if not isinstance(condition, Retrieval):
        raise ValueError(
            "--clip-model and --database are for models that retrieve: this one has "
            f'the "{condition.kind}" condition; leave them out.'
        )
    return condition


def check_makes_images(model) -> None:
    """Refuses a denoiser of latents imported without its first stage."""
    channels = model.autoencoder.out_channels
    if channels != 3:
        raise ValueError(
            f"an image has 3 channels: this model makes arrays of {channels}, latents "
            "without a first stage; import the whole pipeline's folder, or draw them "
            "with ldm_jax.sample."
        )


def choose_image_size(
    trained: ModelSettings, of_condition, requested
) -> tuple[int, int]:
    """Chooses (height, width): as requested, of the condition, or of training."""
    if requested is not None and of_condition not in (None, tuple(requested)):
        raise ValueError(
            f"the size must be that of the condition, {of_condition[0]}x"
            f"{of_condition[1]}: got --size {requested[0]}x{requested[1]}; leave "
            "--size out, or resize the condition."
        )
    size = requested or of_condition or trained.image_size
    assert size is not None  # that of training is always known
    height, width = size
    return height, width


def check_sample_size(model: Any, size: tuple[int, int], is_tiled: bool) -> None:
    """Refuses a size that first stage or denoiser cannot make.

    Args:
      model: a LatentDiffusion.
      size: (height, width) of the samples.
      is_tiled: the denoiser sees tiles, whose size is not that of the samples.

    Raises:
      ValueError: a side is no multiple of the unit; names the nearest size.
    """
    levels = 1 if is_tiled else len(model.unet.channel_mult)
    unit = model.autoencoder.f * 2 ** (levels - 1)
    if any(side % unit for side in size):
        near = "x".join(str(max(round(side / unit), 1) * unit) for side in size)
        raise ValueError(
            f"height and width of samples must be multiples of {unit} for this model: "
            f"got {size[0]}x{size[1]}; the nearest size is {near}."
        )


def read_condition(conditioner, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Reads a user's inputs for a condition, and refuses unknown ones."""
    flags = {flag.argument: f"--{name}" for name, flag in condition_flags().items()}
    expected = [field.argument for field in conditioner.fields.values()]
    if sorted(inputs) != sorted(expected):
        takes, given = (
            [flags.get(name, name) for name in names] for names in (expected, inputs)
        )
        raise ValueError(
            f'a model with the "{conditioner.kind}" condition takes '
            f"{' and '.join(takes) or 'no flag for it'}: got "
            f"{' and '.join(given) or 'none'}; see ldm-jax sample --help."
        )
    return conditioner.from_user(**inputs)


def read_images(
    paths: Mapping[str, str], size, options: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Reads images [1, H, W, 3] in [-1, 1], and the hole [1, H, W, 1], 1 inside."""
    if "strength" in options and "start" not in paths:
        raise ValueError(
            f"strength={options['strength']} is the share of the steps that --start is "
            "taken through: got no --start; give it, or leave --strength out."
        )
    if ("known" in paths) != ("hole" in paths):
        raise ValueError(
            "a known image and its hole go together: give both --known and --hole, or "
            "neither."
        )
    readers = dict(start=to_image, known=to_image, hole=to_mask)
    images = {name: readers[name](path)[None] for name, path in paths.items()}
    if "hole" in images and images["hole"].all():
        raise ValueError(
            f"--hole is white where --known is painted over: all of {paths['hole']} is "
            "white, so nothing would be kept; paint what is to be kept black."
        )
    for name, image in images.items():
        if image.shape[1:3] != size:
            raise ValueError(
                f"the {name} image {paths[name]} must be as large as the samples, "
                f"{size[0]}x{size[1]}: got {image.shape[1]}x{image.shape[2]}; resize "
                "it, or give --size."
            )
    return images
