# SPDX-License-Identifier: Apache-2.0
"""Trains a first stage or a diffusion model from its config."""

import dataclasses

import numpy as np
from etils import epath

from ldm_jax import experiment
from ldm_jax.data import latent_source
from ldm_jax.data.images import open_images
from ldm_jax.data.loader import iterate_once, make_batches
from ldm_jax.data.transforms import ImageTransform
from ldm_jax.jobs.encode import reconstruct_all
from ldm_jax.jobs.sample import sample_images
from ldm_jax.tasks import generate, pictures
from ldm_jax.tasks.conditioner import Conditioner
from ldm_jax.tasks.first_stage import first_stage
from ldm_jax.tasks.latent_diffusion import Objective, latent_diffusion
from ldm_jax.training import sharding
from ldm_jax.training.checkpoint import load_params, save_params
from ldm_jax.training.digest import fingerprint
from ldm_jax.training.hosts import fetch
from ldm_jax.training.loop import train as run_loop
from ldm_jax.training.optimizer import make_optimizer
from ldm_jax.training.state import TrainState


def train(config, workdir: str) -> TrainState:
    """Trains what a config describes, or goes on where `workdir` was left.

    Args:
      config: ConfigDict of one experiment, see `experiment.SECTIONS`.
      workdir: becomes a model directory.

    Raises:
      ValueError: the config, the data or the directory do not fit.
    """
    experiment.check_config(config)
    jobs = dict(first_stage=_train_first_stage, latent_diffusion=_train_diffusion)
    return jobs[config.task](config, workdir)


def _train_first_stage(config, workdir):
    model = experiment.make_first_stage(config)
    mesh = sharding.make_mesh(**config.mesh)
    on_mesh = sharding.batch_sharding(mesh)
    transform = ImageTransform(**config.transform)
    model.autoencoder.latent_shape((*transform.size, model.autoencoder.in_channels))
    source = open_images(**config.images)
    batches = make_batches(
        source, transform, config.batch_size, on_mesh, seed=config.seed
    )
    evaluate = None
    if config.held_out:
        held_out = open_images(**{**config.images, "split": config.held_out})

        def evaluate(state, step):
            rows = iterate_once(held_out, transform, config.batch_size, on_mesh)
            quality, sheet = reconstruct_all(
                model, state.averaged_params(), rows, num_shown=16
            )
            return {"psnr": quality}, {"reconstructions": sheet}

    return run_loop(
        first_stage(model.autoencoder, **config.objective),
        batches,
        make_optimizer(**config.optimizer),
        workdir,
        seed=config.seed,
        mesh=mesh,
        evaluate=evaluate,
        config=config.to_dict(),
        label="first stage",
        **config.train,
    )


def _train_diffusion(config, workdir):
    source, stats = latent_source.open_latents(config.latents.directory)
    config = experiment.resolve(config, stats.scale, stats.latent_shape)
    model = experiment.make_latent_diffusion(config)
    stage = _keep_first_stage(config, stats, workdir)
    mesh = sharding.make_mesh(**config.mesh)
    on_mesh = sharding.batch_sharding(mesh)
    transform = ConditionTransform(
        latent_source.LatentTransform(flip=config.latents.flip), model.conditioner
    )
    batches = make_batches(
        source, transform, config.batch_size, on_mesh, seed=config.seed
    )
    return run_loop(
        latent_diffusion(model, Objective(**config.objective), stage),
        batches,
        make_optimizer(**config.optimizer),
        workdir,
        seed=config.seed,
        mesh=mesh,
        evaluate=_make_preview(model, stage, source, transform, config),
        config=config.to_dict(),
        label="diffusion",
        **config.train,
    )


@dataclasses.dataclass(frozen=True)
class ConditionTransform:
    """Makes what the condition reads of a record's raw fields, then the example."""

    transform: latent_source.LatentTransform
    conditioner: Conditioner

    @property
    def description(self):
        """What is done, as JSON."""
        return {**self.transform.description, "condition": self.conditioner.kind}

    def __call__(self, record, rng):
        """(record, rng) -> dict of arrays."""
        return self.transform(self.conditioner.prepare(record), rng)


def _keep_first_stage(config, stats, workdir):
    """Copies the first stage that wrote the latents into the model directory.

    Returns:
      Its params, checked to be the ones whose fingerprint the latents carry.
    """
    written_by = epath.Path(config.latents.directory) / "autoencoder"
    settings = experiment.read_config(str(written_by))
    given, used = dict(config.autoencoder), dict(settings.autoencoder)
    if given != used:
        raise ValueError(
            f"config.autoencoder must be the first stage that wrote the latents in "
            f"{config.latents.directory}: got {given}, they were written by {used}; "
            "copy its section, or write latents with yours (ldm-jax latents)."
        )
    params = load_params(str(written_by))
    stats.check(fingerprint(params), config.latents.directory)
    save_params(f"{workdir}/autoencoder", params, settings.to_dict())
    return params


def _make_preview(model, stage, source, transform, config, num=16):
    """Makes the evaluation of a diffusion run: a grid of samples.

    They have the conditions of the set's first records and the same noise every time,
    so that grids of different steps can be compared.
    """
    rows = [
        transform(source[i % len(source)], np.random.default_rng(i)) for i in range(num)
    ]
    y = {
        name: np.stack([row[name] for row in rows]) for name in model.conditioner.fields
    }
    shape = experiment.LatentSet(**config.latents).latent_shape(model.autoencoder)
    sampling = generate.Sampling(**config.sampling)

    def evaluate(state, step):
        params = {**fetch(state.averaged_params()), **stage}
        batches = sample_images(
            model, params, y, np.arange(num), shape, sampling, batch_size=num
        )
        sheet = pictures.grid(np.concatenate(list(batches)), num_columns=4)
        return {}, {"samples": sheet}

    return evaluate
