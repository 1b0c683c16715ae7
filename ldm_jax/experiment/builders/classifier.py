# SPDX-License-Identifier: Apache-2.0
"""Builds the run of a classifier of noisy latents: latents -> classes."""

import dataclasses

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ldm_jax.conditions.kinds.class_label import ClassLabel
from ldm_jax.data.latents.source import LatentTransform
from ldm_jax.experiment.builders.abstract import floats
from ldm_jax.experiment.builders.evaluation import HeldOutClasses
from ldm_jax.experiment.builders.parts import Examples, Parts
from ldm_jax.experiment.config.sections import LatentSet
from ldm_jax.experiment.models import make_classifier
from ldm_jax.experiment.resolve import Inputs
from ldm_jax.tasks.classifier import classify_latents
from ldm_jax.tasks.condition_transform import ConditionTransform


def build_classifier(config: ConfigDict, inputs: Inputs, abstract: bool) -> Parts:
    """Makes the model, the data, the task and the evaluation of a classifier.

    Args:
      config: without open fields, from `resolve_config`.
      inputs: the latents.
      abstract: use shapes instead of data.

    Raises:
      ValueError: the sections do not fit together, or the latents have no labels.
    """
    model = make_classifier(config)
    shape = LatentSet(**config.latents).latent_shape(model.autoencoder)
    moments_shape = (*shape[:2], model.autoencoder.moments_channels)
    parts = Parts(
        model=model,
        task=classify_latents(model),
        label="classifier",
        batch_shapes={
            "moments": floats(config.batch_size, *moments_shape),
            "label": jax.ShapeDtypeStruct((config.batch_size,), jnp.int32),
        },
        latent_shape=shape,
    )
    if abstract:
        return parts
    # The label as a class-conditional denoiser reads it, checked against the classes.
    num_classes = model.classifier.num_classes
    label = ClassLabel(num_classes, width=None, has_null=False)

    def transform(flip: bool) -> ConditionTransform:
        return ConditionTransform(LatentTransform(flip), label)

    assert inputs.source is not None  # a classifier learns from latents
    what = f"latents in {config.latents.directory}"
    examples = Examples(inputs.source, transform(config.latents.flip), what)
    evaluate = None
    if inputs.held_out is not None:
        evaluate = HeldOutClasses(
            model, inputs.held_out, transform(flip=False), config.batch_size
        )
    return dataclasses.replace(parts, examples=examples, evaluate=evaluate)
