# SPDX-License-Identifier: Apache-2.0
"""Measures how much a diffusion model uses its condition, without sampling.

A denoiser that uses its condition has a larger error with the condition of another
record, or with none (Eq. 3 of Rombach et al. 2022 with the wrong y). All errors are
measured with the same latents, noise and t, so the difference shows long before it is
visible in pictures.
"""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.commands.evaluation.results import write_results
from ldm_jax.data.latents.sets import open_latent_sets
from ldm_jax.data.latents.source import LatentTransform
from ldm_jax.data.loader import iterate_once
from ldm_jax.data.transforms.buckets import Subset
from ldm_jax.diffusion import process
from ldm_jax.experiment import model_directory
from ldm_jax.experiment.model_settings import read_settings
from ldm_jax.parallel import sharding
from ldm_jax.parallel.hosts import fetch
from ldm_jax.parallel.outputs import output_directory, reserves
from ldm_jax.tasks.condition_transform import ConditionTransform
from ldm_jax.tasks.model import LatentDiffusion
from ldm_jax.training.checkpoints.digest import params_fingerprint
from ldm_jax.types import Array, Batch

# Noise levels at which every record is tried: one drawn in each quarter of [0, T).
LEVELS = 4


@reserves(output_directory)
def evaluate_condition(
    model_dir: str,
    latents: str | os.PathLike,
    out: str,
    *,
    num: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    which: str = "ema",
) -> dict[str, Any]:
    """Measures the denoiser's error with its own condition, another record's, and none.

    Args:
      model_dir: a diffusion model; of one without a condition only its error is
        measured, on the same latents, noise and t as that of others.
      latents: of `open_latent_sets`, with the condition's fields; of the model's first
        stage, not necessarily the set it learned from.
      out: directory; gets results.json and results.md.
      num: records, drawn from the set; None takes 512, or all if these are fewer.
      batch_size: latents at once.
      seed: of the choice of records, of noise and of t.
      which: "ema" or "raw" parameters.

    Returns:
      What was measured, as in results.json: the mean squared error of the prediction,
      and how much larger it is with the wrong condition, each with the standard error
      over records.

    Raises:
      ValueError: the latents are not of the model's first stage.
    """
    trained = read_settings(model_dir, "latent_diffusion")
    model, params = model_directory.load(model_dir, which, task="latent_diffusion")
    source, stats, shapes = open_latent_sets(latents)
    if len(shapes) > 1:
        raise ValueError(
            f"latents must have one shape here: got {shapes} in {latents}; name one of "
            "its folders."
        )
    stats.check(params_fingerprint({"autoencoder": params["autoencoder"]}), latents)
    order = _choose_records(len(source), num, seed, latents)
    stored = LatentTransform(False, trained.mask)
    transform = ConditionTransform(stored, model.conditioner)
    mesh = sharding.make_mesh()
    placed = sharding.place(params, mesh)
    errors = jax.jit(lambda *args: condition_errors(model, *args))
    keys = jax.random.split(jax.random.key(seed), LEVELS)
    losses = []
    own, other = (
        iterate_once(
            Subset(source, rows), transform, batch_size, sharding.batch_sharding(mesh)
        )
        for rows in (order, np.roll(order, 1))
    )
    for index, ((batch, valid), (wrong, _)) in enumerate(zip(own, other, strict=True)):
        levels = [
            errors(placed, batch, wrong, jax.random.fold_in(key, index), level)
            for level, key in enumerate(keys)
        ]
        losses.append(np.mean(fetch(levels), axis=0)[:, :valid])
    right, shuffled, null = np.concatenate(losses, axis=1)
    settings = {
        "model": model_dir,
        "weights": which,
        "latents": str(latents),
        "seed": seed,
        "levels of noise": LEVELS,
    }
    if model.conditioner.fields:
        figures = {
            "condition_error": _figure("error with its own condition", right),
            "condition_gap": _figure("more with another's", shuffled - right),
            "null_gap": _figure("more with none", null - right),
        }
    else:
        figures = {"condition_error": _figure("error, without a condition", right)}
    result = {"num_images": len(order), "warnings": [], "figures": figures}
    return write_results({**result, "row": None, "settings": settings}, out)


def _choose_records(
    num_records: int, num: int | None, seed: int, latents: str | os.PathLike
) -> np.ndarray:
    """Draws the numbers of the records to evaluate, without repeats."""
    order = np.random.default_rng(seed).permutation(num_records)[: num or 512]
    if num == 1:
        raise ValueError(
            "conditions of two records are compared: got --num 1; take 2 or more."
        )
    if len(order) < (num or 2):
        raise ValueError(
            f"{num or 'two or more'} records must be in {latents}: it has "
            f"{num_records}; ask for fewer (--num)."
        )
    return order


def condition_errors(
    model: LatentDiffusion, params, batch: Batch, wrong: Batch, key: Array, level: int
) -> Array:
    """Computes one prediction's error under three conditions.

    Args:
      model: the spec.
      params: of the denoiser, and of the conditioner where it has any.
      batch: "moments" and the condition's fields, B rows.
      wrong: the condition's fields of other records.
      key: of latents, noise and t.
      level: which of the LEVELS equal parts of [0, T) t is drawn from.

    Returns:
      [3, B] mean squared errors: with the batch's own condition, the wrong one, none.
    """
    key_z, key_t, key_eps = jax.random.split(key, 3)
    z_0 = model.latent(batch["moments"], key_z)
    part = model.schedule.num_timesteps / LEVELS
    t = part * (level + jax.random.uniform(key_t, z_0.shape[:1]))
    t = t.astype(jnp.int32)
    eps = jax.random.normal(key_eps, z_0.shape)
    z_t = process.add_noise(model.schedule, z_0, t, eps)
    target = process.make_target(model.schedule, model.prediction, z_0, t, eps)

    def error(y):
        cond = model.encode_condition(params, y)
        predicted = model.unet.apply({"params": params["unet"]}, z_t, t, cond)
        return jnp.mean(jnp.square(predicted - target), axis=(1, 2, 3))

    return jnp.stack([error(batch), error(wrong), error(model.conditioner.null(batch))])


def _figure(label: str, values: np.ndarray) -> dict[str, Any]:
    spread = values.std(ddof=1) / np.sqrt(len(values))
    return {"label": label, "value": float(values.mean()), "spread": float(spread)}
