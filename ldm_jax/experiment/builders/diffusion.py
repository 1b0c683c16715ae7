# SPDX-License-Identifier: Apache-2.0
"""Builds the run of a diffusion model: latents -> denoiser."""

import dataclasses
import os

from ml_collections import ConfigDict

from ldm_jax.experiment.builders.abstract import zero_params
from ldm_jax.experiment.builders.evaluation import SamplePreview
from ldm_jax.experiment.builders.parts import Examples, Parts
from ldm_jax.experiment.config.sections import LatentSet
from ldm_jax.experiment.models import make_example_transform, make_latent_diffusion
from ldm_jax.experiment.resolve import Inputs
from ldm_jax.metrics.evaluation import Evaluation
from ldm_jax.tasks.condition_transform import ConditionTransform, batch_shapes
from ldm_jax.tasks.latent_diffusion import (
    Objective,
    latent_diffusion,
    networks_read,
)
from ldm_jax.tasks.sampling import make_sampling


def build_diffusion(config: ConfigDict, inputs: Inputs, abstract: bool) -> Parts:
    """Makes the model, the data, the task and the evaluation of a diffusion model.

    Args:
      config: without open fields, from `resolve_config`.
      inputs: the first stage, its latents and the text encoder.
      abstract: use shapes instead of data and weights. If the config names neither
        latents nor a first stage, the shapes are those of training on latents.

    Raises:
      ValueError: the sections do not fit together, or there are no such images.
    """
    latents = LatentSet(**config.latents)
    encodes_images = not latents.directory and bool(latents.first_stage or not abstract)
    transform = make_example_transform(config)
    model = make_latent_diffusion(config)
    shape = latents.latent_shape(model.autoencoder)
    sampling = make_sampling(**config.sampling)
    subject = "image" if encodes_images else "moments"
    frozen = inputs.frozen
    if abstract:
        frozen = zero_params(model, networks_read(model, encodes_images))
    parts = Parts(
        model=model,
        task=latent_diffusion(
            model, Objective(**config.objective), frozen, encodes_images
        ),
        label="denoiser",
        batch_shapes=batch_shapes(model, config.batch_size, shape, subject),
        sampling=sampling,
        latent_shape=shape,
    )
    if abstract:
        return parts
    assert inputs.source is not None  # an abstract run alone has none
    if latents.directory:
        what, num_threads = f"latents in {latents.directory}", 1
    else:
        what, num_threads = f"images of {config.images.dataset}", os.cpu_count() or 1
    transform = ConditionTransform(transform, model.conditioner, subject)
    examples = Examples(inputs.source, transform, what, num_threads)
    evaluate = SamplePreview.make(
        model,
        frozen,
        examples.source,
        transform,
        shape,
        sampling,
        Evaluation(**config.get("evaluation", {})),
    )
    evaluate.check(parts.task, parts.batch_shapes)
    return dataclasses.replace(parts, examples=examples, evaluate=evaluate)
