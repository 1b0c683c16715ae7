# SPDX-License-Identifier: Apache-2.0
"""Builds the run of a diffusion model: latents -> denoiser."""

import os
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ldm_jax.data.images.image_sets import open_images
from ldm_jax.data.latents.source import LatentTransform
from ldm_jax.data.loader import make_batches
from ldm_jax.data.records import Source
from ldm_jax.experiment.builders.abstract import Shapes, floats, zero_params
from ldm_jax.experiment.builders.data_summary import describe_source
from ldm_jax.experiment.builders.evaluation import SamplePreview
from ldm_jax.experiment.config.sections import LatentSet
from ldm_jax.experiment.models import make_latent_diffusion, make_transform
from ldm_jax.experiment.resolve import Inputs
from ldm_jax.metrics.evaluation import Evaluation
from ldm_jax.parallel import sharding
from ldm_jax.tasks.condition_transform import ConditionTransform
from ldm_jax.tasks.latent_diffusion import Objective, latent_diffusion
from ldm_jax.tasks.model import LatentDiffusion
from ldm_jax.tasks.sampling import make_sampling


def build_diffusion(
    config: ConfigDict, inputs: Inputs, mesh: Mesh, abstract: bool
) -> dict[str, Any]:
    """Makes the model, the data, the task and the evaluation of a diffusion model.

    Args:
      config: resolved.
      inputs: the first stage, its latents and the text encoder.
      mesh: of the run.
      abstract: shapes in the place of data and weights; a config that names neither
        latents nor a first stage is taken to learn from latents.

    Returns:
      Fields of `Run`.

    Raises:
      ValueError: the sections do not fit together, or there are no such images.
    """
    model, latents = make_latent_diffusion(config), LatentSet(**config.latents)
    shape = latents.latent_shape(model.autoencoder)
    sampling = make_sampling(**config.sampling)
    sampling.make_timesteps(model.schedule)  # refused now, not after
    objective = Objective(**config.objective)
    subject, frozen = "moments", inputs.frozen
    if not latents.directory and (latents.first_stage or not abstract):
        subject = "image"
    encodes_images = subject == "image"
    if abstract:
        reads = {*model.conditioner.reads_frozen, *["autoencoder"] * encodes_images}
        frozen = zero_params(model, reads)
    task = latent_diffusion(model, objective, frozen, encodes_images)
    parts = dict(
        model=model,
        task=task,
        sampling=sampling,
        latent_shape=shape,
        label="denoiser",
    )
    if abstract:
        return parts | dict(
            batch_shapes=_batch_shapes(model, config.batch_size, shape, subject)
        )
    source, transform = _examples(config, inputs.latents)
    transform = ConditionTransform(transform, model.conditioner, subject)
    batches = make_batches(
        source,
        transform,
        config.batch_size,
        sharding.batch_sharding(mesh),
        seed=config.seed,
        # Latents are read faster than any step; photographs keep every core busy.
        num_threads=(os.cpu_count() or 1) if encodes_images else 1,
    )
    evaluation = Evaluation(**config.get("evaluation", {}))
    evaluate = SamplePreview.make(
        model, frozen, source, transform, shape, sampling, evaluation
    )
    shapes = batches.shapes()
    key = jax.random.key(0)
    evaluate.check(jax.eval_shape(lambda key: task.init(key, shapes)[0], key))
    where = latents.directory or config.images.dataset
    learned = "images of" if encodes_images else "latents in"
    return parts | dict(
        batches=batches,
        batch_shapes=shapes,
        evaluate=evaluate,
        data=describe_source(source, f"{learned} {where}"),
    )


def _examples(config: ConfigDict, latents: Source | None):
    """Returns (source, transform) of the latents, or of images to be encoded."""
    if latents is None:
        transform = make_transform(config)
        return open_images(**config.images), transform
    mask = config.get("transform", {}).get("mask")
    return latents, LatentTransform(config.latents.flip, mask)


def _batch_shapes(
    model: LatentDiffusion, batch_size: int, shape: tuple[int, int, int], subject: str
) -> Shapes:
    """Lists the fields of a batch: what is learned, and the condition's."""
    h, w, c = shape
    f, autoencoder = model.autoencoder.f, model.autoencoder
    subjects = {
        "moments": (h, w, autoencoder.regularizer.moments_channels(c)),
        "image": (f * h, f * w, autoencoder.in_channels),
    }
    learned = {subject: floats(batch_size, *subjects[subject])}
    return {**learned, **model.conditioner.shapes(batch_size, (f * h, f * w), f)}
