# SPDX-License-Identifier: Apache-2.0
"""Builds the run of a diffusion model: latents -> denoiser."""

import dataclasses
import os

from ml_collections import ConfigDict

from ldm_jax.data.images.image_sets import open_images
from ldm_jax.data.latents.source import LatentTransform
from ldm_jax.data.records import Source
from ldm_jax.experiment.builders.abstract import zero_params
from ldm_jax.experiment.builders.data_summary import describe_source
from ldm_jax.experiment.builders.evaluation import SamplePreview
from ldm_jax.experiment.builders.parts import Examples, Parts
from ldm_jax.experiment.config.sections import LatentSet
from ldm_jax.experiment.models import make_latent_diffusion, make_transform
from ldm_jax.experiment.resolve import Inputs
from ldm_jax.metrics.evaluation import Evaluation
from ldm_jax.tasks.condition_transform import ConditionTransform, batch_shapes
from ldm_jax.tasks.latent_diffusion import Objective, latent_diffusion
from ldm_jax.tasks.model import LatentDiffusion
from ldm_jax.tasks.sampling import make_sampling


def build_diffusion(config: ConfigDict, inputs: Inputs, abstract: bool) -> Parts:
    """Makes the model, the data, the task and the evaluation of a diffusion model.

    Args:
      config: resolved.
      inputs: the first stage, its latents and the text encoder.
      abstract: shapes in the place of data and weights; a config that names neither
        latents nor a first stage is taken to learn from latents.

    Raises:
      ValueError: the sections do not fit together, or there are no such images.
    """
    model, latents = make_latent_diffusion(config), LatentSet(**config.latents)
    shape = latents.latent_shape(model.autoencoder)
    sampling = make_sampling(**config.sampling)
    encodes_images = not latents.directory and bool(latents.first_stage or not abstract)
    subject = "image" if encodes_images else "moments"
    frozen = inputs.frozen
    if abstract:
        reads = {*model.conditioner.reads_frozen, *["autoencoder"] * encodes_images}
        frozen = zero_params(model, reads)
    objective = Objective(**config.objective)
    parts = Parts(
        model=model,
        task=latent_diffusion(model, objective, frozen, encodes_images),
        label="denoiser",
        batch_shapes=batch_shapes(model, config.batch_size, shape, subject),
        sampling=sampling,
        latent_shape=shape,
    )
    if abstract:
        return parts
    examples = _examples(config, inputs.latents, model, subject)
    evaluation = Evaluation(**config.get("evaluation", {}))
    evaluate = SamplePreview.make(
        model, frozen, examples.source, examples.transform, shape, sampling, evaluation
    )
    evaluate.check(parts.task, parts.batch_shapes)
    return dataclasses.replace(parts, examples=examples, evaluate=evaluate)


def _examples(
    config: ConfigDict, latents: Source | None, model: LatentDiffusion, subject: str
) -> Examples:
    """Returns the latents to learn from, or images to be encoded in every step."""
    if latents is not None:
        mask = config.get("transform", {}).get("mask")
        transform = LatentTransform(config.latents.flip, mask)
        source, what, num_threads = latents, f"latents in {config.latents.directory}", 1
    else:
        transform = make_transform(config)
        source, what = (
            open_images(**config.images),
            f"images of {config.images.dataset}",
        )
        num_threads = os.cpu_count() or 1
    transform = ConditionTransform(transform, model.conditioner, subject)
    return Examples(source, transform, describe_source(source, what), num_threads)
