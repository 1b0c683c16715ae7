# SPDX-License-Identifier: Apache-2.0
"""Builds the run of a classifier of noisy latents: latents -> classes."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ldm_jax.conditions.kinds.class_label import ClassLabel
from ldm_jax.data.latents.source import LatentTransform
from ldm_jax.data.loader import make_batches
from ldm_jax.experiment.builders.abstract import floats
from ldm_jax.experiment.config.sections import LatentSet
from ldm_jax.experiment.models import make_classifier
from ldm_jax.experiment.resolve import Inputs
from ldm_jax.parallel import sharding
from ldm_jax.tasks.classifier import classify_latents
from ldm_jax.tasks.condition_transform import ConditionTransform


def build_classifier(
    config: ConfigDict, inputs: Inputs, mesh: Mesh, abstract: bool
) -> dict[str, Any]:
    """Makes the model, the data and the task of a classifier.

    Args:
      config: resolved.
      inputs: the latents.
      mesh: of the run.
      abstract: shapes in the place of data.

    Returns:
      Fields of `Run`.

    Raises:
      ValueError: the sections do not fit together, or the latents have no labels.
    """
    model = make_classifier(config)
    parts = dict(model=model, task=classify_latents(model), label="classifier")
    if abstract:
        h, w, c = LatentSet(**config.latents).latent_shape(model.autoencoder)
        channels = model.autoencoder.regularizer.moments_channels(c)
        moments = floats(config.batch_size, h, w, channels)
        label = jax.ShapeDtypeStruct((config.batch_size,), jnp.int32)
        return parts | dict(batch_shapes={"moments": moments, "label": label})
    # The label as a class-conditional denoiser reads it, checked against the classes.
    num_classes = model.classifier.num_classes
    label = ClassLabel(num_classes, width=None, has_null=False)
    batches = make_batches(
        inputs.latents,
        ConditionTransform(LatentTransform(config.latents.flip), label),
        config.batch_size,
        sharding.batch_sharding(mesh),
        seed=config.seed,
    )
    return parts | dict(batches=batches, batch_shapes=batches.shapes())
