# SPDX-License-Identifier: Apache-2.0
"""Trains a first stage or a diffusion model from its config."""

import os

import numpy as np

from ldm_jax.commands.first_stage import train_first_stage
from ldm_jax.data.images.image_sets import open_images
from ldm_jax.data.latents import sets
from ldm_jax.data.latents.source import LatentTransform
from ldm_jax.data.loader import make_batches
from ldm_jax.experiment import experiment
from ldm_jax.experiment.directories import first_stage_of
from ldm_jax.experiment.sections import LatentSet
from ldm_jax.experiment.text_encoder import open_text_encoder, with_vocabulary
from ldm_jax.metrics.evaluation import Judging, make_judge
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.parallel import sharding
from ldm_jax.parallel.hosts import fetch
from ldm_jax.planning.utilization import peak_share
from ldm_jax.tasks import generate, pictures
from ldm_jax.tasks.condition_transform import ConditionTransform
from ldm_jax.tasks.latent_diffusion import Objective, latent_diffusion
from ldm_jax.tasks.model import with_frozen
from ldm_jax.tasks.sample_images import sample_images
from ldm_jax.training.checkpoints.checkpointer import load_params, save_params
from ldm_jax.training.checkpoints.digest import fingerprint
from ldm_jax.training.loop import train as run_loop
from ldm_jax.training.optimizer import make_optimizer
from ldm_jax.training.state import TrainState

# Samples at once where they are judged.
JUDGED_AT_ONCE = 64


def train(config, workdir: str) -> TrainState:
    """Trains what a config describes, or goes on where `workdir` was left.

    Args:
      config: ConfigDict of one experiment, see `experiment.SECTIONS`.
      workdir: becomes a model directory.

    Raises:
      ValueError: the config, the data or the directory do not fit.
    """
    experiment.check_config(config)
    jobs = dict(first_stage=train_first_stage, latent_diffusion=_train_diffusion)
    return jobs[config.task](config, workdir)


def _train_diffusion(config, workdir):
    open_data = _open_latents if config.latents.directory else _open_images
    config, encoder = open_text_encoder(config, workdir)
    config, source, transform, stage = open_data(config, workdir)
    stage = {**stage, **encoder}
    encodes_images = not config.latents.directory
    model = experiment.make_latent_diffusion(config)
    mesh = sharding.make_mesh(**config.mesh)
    on_mesh = sharding.batch_sharding(mesh)
    transform = ConditionTransform(
        transform, model.conditioner, "image" if encodes_images else "moments"
    )
    batches = make_batches(
        source,
        transform,
        config.batch_size,
        on_mesh,
        seed=config.seed,
        # Latents are read faster than any step; photographs want every core.
        num_threads=(os.cpu_count() or 1) if encodes_images else 1,
    )
    task = latent_diffusion(model, Objective(**config.objective), stage, encodes_images)
    return run_loop(
        task,
        batches,
        make_optimizer(**config.optimizer),
        workdir,
        seed=config.seed,
        mesh=mesh,
        evaluate=_make_preview(model, stage, source, transform, config),
        config=with_vocabulary(config, workdir).to_dict(),
        utilization=peak_share(task, batches.shapes(), mesh),
        label="diffusion",
        **config.train,
    )


def _open_latents(config, workdir):
    """Returns (config with the scale, source, transform, first stage's params)."""
    source, stats, shapes = sets.open_latent_sets(
        config.latents.directory, config.latents.get("weights")
    )
    config = experiment.resolve(config, stats.scale, shapes)
    mask = config.get("transform", {}).get("mask")
    transform = LatentTransform(config.latents.flip, mask)
    return config, source, transform, _keep_first_stage(config, stats, workdir)


def _open_images(config, workdir):
    """The same for images that are encoded in every step."""
    if not config.get("images", {}).get("dataset"):
        raise ValueError(
            "a diffusion model learns from latents or from images: got neither "
            "config.latents.directory nor config.images.dataset; write latents with "
            "ldm-jax latents and give their directory."
        )
    if config.latents.scale is None:
        raise ValueError(
            "config.latents.scale must be given where images are encoded in every "
            "step: 1.0 for pixels and for the published VQ models; else ldm-jax "
            "latents measures it."
        )
    is_of_pixels = config.autoencoder.bottleneck == "pixels"
    if not config.latents.first_stage and not is_of_pixels:
        raise ValueError(
            "config.latents.first_stage must be the directory of the first stage that "
            "encodes the images: got none; or set config.latents.directory to latents."
        )
    source, transform = open_images(**config.images), experiment.make_transform(config)
    if is_of_pixels:
        return config, source, transform, {"autoencoder": {}}
    params = _copy_first_stage(config, config.latents.first_stage, workdir)
    return config, source, transform, params


def _keep_first_stage(config, stats, workdir):
    """Copies the first stage that wrote the latents into the model directory.

    Returns:
      Its params, checked to be the ones whose fingerprint the latents carry.
    """
    directory = sets.directories(config.latents.directory)[0]
    params = _copy_first_stage(config, f"{directory}/autoencoder", workdir)
    stats.check(fingerprint(params), directory)
    return params


def _copy_first_stage(config, directory: str, workdir):
    """Copies a first stage into the model directory; returns its params."""
    directory, settings = first_stage_of(directory)
    given, used = dict(config.autoencoder), dict(settings.autoencoder)
    if _spelled_out(given) != _spelled_out(used):
        raise ValueError(
            f"config.autoencoder must be the first stage in {directory}: got {given}, "
            f"that is {used}; copy its section, or write latents with yours (ldm-jax "
            "latents)."
        )
    params = {"autoencoder": load_params(directory)["autoencoder"]}
    save_params(f"{workdir}/autoencoder", params, settings.to_dict())
    return params


def _spelled_out(fields) -> Autoencoder:
    """Makes an autoencoder that equals every other one that computes the same.

    Imported ones spell their defaults out; how a module was initialised, or saves
    memory, is not what it computes.
    """
    made = Autoencoder(**fields)
    free = {name: getattr(Autoencoder, name) for name in ("remat", "code_range")}
    return made.clone(embed_dim=made.embed_channels, **free)


def _make_preview(model, stage, source, transform, config, num=16):
    """Makes the evaluation of a diffusion run: a grid of samples, and figures if asked.

    They have the conditions of the set's first records and the same noise every time,
    so that grids of different steps can be compared.
    """
    latents = LatentSet(**config.latents)
    shape = latents.latent_shape(model.autoencoder)
    sampling = generate.Sampling(**config.sampling)
    judging = Judging(**config.get("judging", {}))
    judge = make_judge(judging, [model.autoencoder.f * side for side in shape[:2]])
    rows = [
        transform(source[i % len(source)], np.random.default_rng(i))
        for i in range(max(num, judging.num if judge else 0))
    ]
    y = {
        name: np.stack([row[name] for row in rows]) for name in model.conditioner.fields
    }

    def evaluate(state, step):
        params = with_frozen(fetch(state.averaged_params()), stage)

        def draw(count, batch_size):
            part = {name: values[:count] for name, values in y.items()}
            return sample_images(
                model, params, part, np.arange(count), shape, sampling, batch_size
            )

        sheet = pictures.grid(np.concatenate(list(draw(num, num))), num_columns=4)
        figures = judge(draw(judging.num, JUDGED_AT_ONCE)) if judge else {}
        return figures, {"samples": sheet}

    return evaluate
