# SPDX-License-Identifier: Apache-2.0
"""Builds the run of a first stage: images -> autoencoder."""

import dataclasses
import os

from ml_collections import ConfigDict

from ldm_jax.data.images.image_sets import open_images
from ldm_jax.data.transforms.image_transform import ImageTransform
from ldm_jax.experiment.builders.abstract import floats, zero_lpips
from ldm_jax.experiment.builders.evaluation import HeldOut
from ldm_jax.experiment.builders.parts import Examples, Parts
from ldm_jax.experiment.models import make_first_stage, still_transform
from ldm_jax.experiment.resolve import Inputs
from ldm_jax.metrics.reconstruct import make_pair_metrics
from ldm_jax.tasks.first_stage import first_stage


def build_first_stage(config: ConfigDict, inputs: Inputs, abstract: bool) -> Parts:
    """Makes the model, the data, the task and the evaluation of a first stage.

    Args:
      config: without open fields, from `resolve_config`.
      inputs: the LPIPS weights.
      abstract: use shapes instead of data and weights.

    Raises:
      ValueError: the sections do not fit together, or there are no such images.
    """
    model, transform = make_first_stage(config), ImageTransform(**config.transform)
    shape = (*transform.size, model.autoencoder.in_channels)
    objective = config.objective.to_dict()  # its adversary, too
    trunk = objective.get("perceptual")
    lpips = inputs.frozen.get("lpips")
    if abstract and trunk and trunk != "none":
        lpips = zero_lpips(trunk)
    parts = Parts(
        model=model,
        task=first_stage(model.autoencoder, perceptual_params=lpips, **objective),
        label="first stage",
        batch_shapes={"image": floats(config.batch_size, *shape)},
        latent_shape=model.autoencoder.latent_shape(shape),
    )
    if abstract:
        return parts
    images = open_images(**config.images)
    evaluate, what = None, f"images of {config.images.dataset}"
    if config.held_out:
        held_out = open_images(**{**config.images, "split": config.held_out})
        what += f" ({len(held_out):,} more are held out)"
        evaluate = HeldOut(
            model,
            held_out,
            still_transform(config.transform),
            config.batch_size,
            make_pair_metrics(transform.size, trunk, lpips),
        )
    examples = Examples(images, transform, what, num_threads=os.cpu_count() or 1)
    return dataclasses.replace(parts, examples=examples, evaluate=evaluate)
