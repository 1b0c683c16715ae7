# SPDX-License-Identifier: Apache-2.0
"""Draws samples for a model card."""

import numpy as np

from ldm_jax.conditions.kinds.class_label import ClassLabel
from ldm_jax.files.formats.png import enlargement, grid
from ldm_jax.tasks.model import FirstStage, LatentDiffusion
from ldm_jax.tasks.sample_images import sample_images
from ldm_jax.tasks.sampling import Sampling
from ldm_jax.types import PyTree

# Value of --picture that samples a picture.
DRAW = "draw"
NUM_DRAWN = 8


def draw_samples(
    model: FirstStage,
    params: PyTree,
    image_size: int | tuple[int, int],
    sampling: Sampling | None,
) -> np.ndarray:
    """Samples a sheet of NUM_DRAWN images, of the first classes where it has classes.

    Args:
      model, params: from `ldm_jax.load`.
      image_size: side of the images in pixels, or (height, width).
      sampling: of the model; None of a first stage.

    Returns:
      [H, W, 3] uint8, four images a row.

    Raises:
      ValueError: a first stage, or a condition that only a user can give.
    """
    if not isinstance(model, LatentDiffusion) or sampling is None:
        raise ValueError(
            f"--picture={DRAW} samples a diffusion model: this is a first stage; give "
            "a file of ldm-jax reconstruct."
        )
    y = _labels_of(model)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    channels = model.autoencoder.in_channels
    shape = model.autoencoder.latent_shape((*size, channels))
    seeds = np.arange(NUM_DRAWN)
    # One at a time: the memory of an export is not that of a batch.
    images = list(sample_images(model, params, y, seeds, shape, sampling, batch_size=1))
    return grid(np.concatenate(images), 4, enlarge=enlargement(size[0]))


def _labels_of(model: LatentDiffusion) -> dict[str, np.ndarray]:
    """Returns the raw condition of the samples."""
    condition = model.conditioner
    if isinstance(condition, ClassLabel):
        return {"label": np.arange(NUM_DRAWN, dtype=np.int32) % condition.num_classes}
    if condition.fields:
        raise ValueError(
            f"--picture={DRAW} samples models of classes or without a condition: this "
            f"one has the condition {condition.kind}; give a file of ldm-jax sample."
        )
    return {}
