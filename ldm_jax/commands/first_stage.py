# SPDX-License-Identifier: Apache-2.0
"""Trains a first stage, and looks at images it has not seen on the way."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from ldm_jax.data.images.image_sets import open_images
from ldm_jax.data.loader import iterate_once, make_batches
from ldm_jax.data.transforms.image_transform import ImageTransform
from ldm_jax.experiment import experiment
from ldm_jax.interop.feature_networks.lpips import LpipsFile
from ldm_jax.metrics.reconstruct import make_judges, reconstruct_all
from ldm_jax.parallel import sharding
from ldm_jax.planning.utilization import peak_share
from ldm_jax.tasks.first_stage import first_stage
from ldm_jax.training.checkpoints.digest import fingerprint
from ldm_jax.training.loop import train as run_loop
from ldm_jax.training.optimizer import make_optimizer
from ldm_jax.training.state import TrainState
from ldm_jax.types import Array, PyTree

# [B, H, W, 3] images and reconstructions in [-1, 1] -> a number for each, [B].
Judge = Callable[[Array, Array], Array]


def train_first_stage(config, workdir: str) -> TrainState:
    """Trains the first stage that a config describes; see `jobs.train.train`."""
    model = experiment.make_first_stage(config)
    mesh = sharding.make_mesh(**config.mesh)
    on_mesh = sharding.batch_sharding(mesh)
    transform = ImageTransform(**config.transform)
    model.autoencoder.latent_shape((*transform.size, model.autoencoder.in_channels))
    config, lpips_params = with_lpips(config)
    task = first_stage(
        model.autoencoder, perceptual_params=lpips_params, **config.objective
    )
    source = open_images(**config.images)
    batches = make_batches(
        source,
        transform,
        config.batch_size,
        on_mesh,
        seed=config.seed,
        num_threads=os.cpu_count() or 1,  # photographs want every core
    )
    evaluate = None
    if config.held_out:
        held_out = open_images(**{**config.images, "split": config.held_out})
        trunk = config.objective.perceptual
        judges = make_judges(transform.size, trunk, lpips_params)

        def evaluate(state, step):
            still = still_transform(config.transform)
            rows = iterate_once(held_out, still, config.batch_size, on_mesh)
            params = state.averaged_params()
            figures, sheet = reconstruct_all(model, params, rows, 16, judges)
            return figures, {"reconstructions": sheet}

    return run_loop(
        task,
        batches,
        make_optimizer(**config.optimizer),
        workdir,
        seed=config.seed,
        mesh=mesh,
        evaluate=evaluate,
        config=config.to_dict(),
        utilization=peak_share(task, batches.shapes(), mesh),
        label="first stage",
        **config.train,
    )


def with_lpips(config) -> tuple[Any, PyTree]:
    """Loads the LPIPS weights that a config names, and notes which they are.

    Returns:
      (a copy of the config with `lpips.fingerprint`, parameters); as it is, and None,
      where `objective.perceptual` is "none".

    Raises:
      ValueError: there is no file, it lacks the trunk, or holds other weights than
        `lpips.fingerprint` says.
    """
    trunk = config.objective.get("perceptual")
    if trunk is None or trunk == "none":
        return config, None
    source = LpipsFile(**config.get("lpips", {}))
    params = source.load(trunk)
    found = fingerprint(params)
    if source.fingerprint not in (None, found):
        raise ValueError(
            f"config.lpips.fingerprint is {source.fingerprint}: {source.file} holds "
            f"LPIPS weights with {found}; name the file of that run, or leave the "
            "fingerprint out in a new one."
        )
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.lpips = dict(file=source.file, fingerprint=found)
    return config, params


def still_transform(
    fields: Mapping[str, Any], size: tuple[int, int] | None = None
) -> ImageTransform:
    """Makes the transform with the same result every time: centered, not mirrored.

    Args:
      fields: of the `ImageTransform` in training.
      size: (height, width) of the images; None is that of training.
    """
    fixed = dict(crop="center", min_scale=1.0, flip=False)
    if size is not None:
        fixed["image_size"] = size
    return ImageTransform(**{**fields, **fixed})
