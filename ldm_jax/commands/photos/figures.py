# SPDX-License-Identifier: Apache-2.0
"""Compares samples with held-out pictures, without a feature network.

The measures compare pixels, so they need no weights. They reveal a model that collapsed
or that copies training images, but do not replace FID.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ldm_jax.data.images.image_sets import open_images
from ldm_jax.data.loader import iterate_once
from ldm_jax.data.transforms.image_transform import ImageTransform
from ldm_jax.experiment.models import held_out_images, training_images
from ldm_jax.metrics.image_sets.frechet import FeatureMoments, frechet_distance
from ldm_jax.metrics.nearest import nearest_distances

PARTS = 4


def compare_samples(stage: ConfigDict, samples: np.ndarray) -> dict[str, float]:
    """Compares samples with the training pictures, and held-out ones likewise.

    Args:
      stage: config of the first stage, which names the pictures.
      samples: [N, H, W, 3] uint8.

    Returns:
      "colour_distance_samples": Frechet distance of the mean colours of 4x4 parts to
      those of the training pictures; "nearest_distance_samples": mean root-mean-square
      difference to the nearest training picture, in [0, 2]; the same of held-out
      pictures, where there are some, from as many samples.
    """
    training = _pictures(*training_images(stage))
    others = held_out_images(stage)
    sets = {"samples": samples.astype(np.float32) / 127.5 - 1}
    if others is not None:
        held_out = _pictures(*others)
        count = min(len(held_out), len(samples))
        rng = np.random.default_rng(0)
        sets["samples"] = rng.permutation(sets["samples"])[:count]
        sets["held_out"] = held_out[:count]
    expected = _layout(training)
    figures = {}
    for name, images in sets.items():
        distance = frechet_distance(_layout(images), expected)
        figures[f"colour_distance_{name}"] = distance
        nearest = nearest_distances(training, images)
        figures[f"nearest_distance_{name}"] = float(nearest.mean())
    return figures


def _pictures(spec: Mapping[str, Any], transform: ImageTransform) -> np.ndarray:
    """Reads all pictures of a set: [N, H, W, 3] in [-1, 1]."""
    rows = iterate_once(open_images(**spec), transform, 64)
    parts = [np.asarray(batch["image"])[:valid] for batch, valid in rows]
    return np.concatenate(parts)


def _layout(images: np.ndarray):
    """Returns the Gaussian of the mean colours of PARTS x PARTS parts of each image."""
    count, height, width, _ = images.shape
    h, w = height // PARTS, width // PARTS
    parts = images[:, : h * PARTS, : w * PARTS].reshape(count, PARTS, h, PARTS, w, 3)
    moments = FeatureMoments(PARTS * PARTS * 3)
    moments.update(parts.mean((2, 4)).reshape(count, -1))
    return moments.gaussian()
