# SPDX-License-Identifier: Apache-2.0
"""Trains a first stage, and looks at images it has not seen on the way."""

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from ldm_jax.data.images.image_sets import open_images
from ldm_jax.data.loader import iterate_once, make_batches
from ldm_jax.data.transforms.image_transform import ImageTransform
from ldm_jax.experiment import experiment
from ldm_jax.interop.feature_networks.lpips import LpipsFile
from ldm_jax.metrics.codebook import CodebookUsage
from ldm_jax.metrics.reconstruction import WINDOW, psnr, ssim
from ldm_jax.models.features.lpips import LPIPS
from ldm_jax.parallel import sharding
from ldm_jax.parallel.hosts import fetch
from ldm_jax.planning.utilization import peak_share
from ldm_jax.tasks import pictures
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


def make_judges(
    size: tuple[int, int], perceptual: str, lpips_params: PyTree
) -> dict[str, Judge]:
    """Lists by what held-out reconstructions of a size are judged.

    Returns:
      "psnr" in dB; "ssim", unless the images are smaller than its window; "lpips",
      unless `perceptual` is "none".
    """
    judges: dict[str, Judge] = {"psnr": jax.jit(psnr)}
    if min(size) >= WINDOW:
        judges["ssim"] = jax.jit(ssim)
    if perceptual != "none":
        lpips = LPIPS(perceptual)
        # Arguments, not constants of a program: they are many megabytes.
        distance = jax.jit(lambda p, x, y: lpips.apply({"params": p}, x, y))
        judges["lpips"] = functools.partial(distance, lpips_params)
    return judges


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


def reconstruct_all(model, params, rows, num_shown: int, judges: Mapping[str, Judge]):
    """Encodes and decodes images.

    Args:
      model, params: of a first stage.
      rows: iterator of (batch, how many of its rows are valid).
      num_shown: pairs to show.
      judges: name -> function of images and their reconstructions.

    Returns:
      {name: mean over all rows}, with "codebook_usage" and "perplexity" over all rows
      for VQ, and a sheet of pairs, uint8 [H', W', 3].
    """
    num_codes = model.autoencoder.num_codes
    usage = CodebookUsage(num_codes) if num_codes else None
    run = _program(model)
    found = {name: [] for name in judges}
    shown = []
    for batch, valid in rows:
        image = batch["image"]
        reconstruction, indices = run(params, image)
        for name, judge in judges.items():
            found[name].append(fetch(judge(image, reconstruction))[:valid])
        reconstruction, indices = fetch((reconstruction, indices))
        if usage:
            usage.update(indices[:valid])
        if sum(map(len, shown)) < 2 * num_shown:
            pairs = np.stack([fetch(image)[:valid], reconstruction[:valid]], axis=1)
            shown.append(pairs.reshape(-1, *pairs.shape[2:]))
    figures = {name: float(np.concatenate(found[name]).mean()) for name in found}
    figures |= usage.result() if usage else {}
    sheet = pictures.to_uint8(np.concatenate(shown)[: 2 * num_shown])
    return figures, pictures.grid(sheet, num_columns=8)


@functools.cache
def _program(model):
    """Makes (params, image) -> (reconstruction, codes or ()), compiled once a run."""

    @jax.jit
    def run(params, image):
        z_0 = model.encode(params, image)
        codes = model.indices(params, z_0) if model.autoencoder.num_codes else ()
        return model.decode(params, z_0), codes

    return run
