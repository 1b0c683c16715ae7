# SPDX-License-Identifier: Apache-2.0
"""The task of a classifier of noisy latents, whose gradient guides samples."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Int

from ldm_jax.diffusion import process, weighting
from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.models.classifier import LatentClassifier, log_probability
from ldm_jax.parallel.hosts import fetch
from ldm_jax.tasks.model import FirstStage
from ldm_jax.types import Array, Batch, PyTree, Task

# Noise levels at which held-out latents are classified.
NUM_LEVELS = 10
# Their scores whose means over these levels are reported.
MEANS = ("loss", "accuracy", "accuracy_5")


@dataclasses.dataclass(frozen=True, eq=False)
class NoisyLatentClassifier(FirstStage):
    """A classifier and the diffusion model's first stage, scale and noise schedule.

    Attributes:
      classifier: the network, or another module with the same arguments.
      schedule: the noise schedule of the diffusion model that it guides.
      schedule_settings: arguments of `make_schedule` that made the schedule; only
        saving needs them.
      class_names: of the K classes; () where they have none.
    """

    classifier: LatentClassifier | Any = dataclasses.field(kw_only=True)
    schedule: NoiseSchedule = dataclasses.field(kw_only=True)
    schedule_settings: Mapping[str, Any] | None = None
    class_names: tuple[str, ...] = ()

    def logits(
        self, params: PyTree, z_t: Float[Array, "B h w c"], t: Int[Array, " B"]
    ) -> Float[Array, "B K"]:
        """Computes the logits of p(y | z_t).

        Args:
          params: {"classifier": ...}.
          z_t: noisy scaled latents.
          t: steps in [0, T).
        """
        return self.classifier.apply({"params": params["classifier"]}, z_t, t)

    def log_probability(
        self,
        params: PyTree,
        z_t: Float[Array, "B h w c"],
        t: Int[Array, " B"],
        class_label: Int[Array, " B"],
    ) -> Float[Array, " B"]:
        """Computes ln p(class_label | z_t), nats; see `diffusion.guidance`."""
        return log_probability(self.logits(params, z_t, t), class_label)


def classify_latents(model: NoisyLatentClassifier) -> Task:
    """Makes the task of predicting the class of a noisy latent.

        L = E_{z_0, y, eps, t} -ln p(y | z_t),  t uniform in [0, T)

    A batch contains "moments", the unscaled output of the first stage, and "label" [B]
    int32 in [0, K). Latents are scaled and noised as for the diffusion model.

    Returns:
      Task with params {"classifier": ...}; its metrics are "loss", "accuracy" and
      "accuracy_5" (top-1 and top-5 accuracy), and the loss by range of t.

    Source: Dhariwal & Nichol 2021, Sec. 4.1; the released code of Rombach et al. 2022.
    """
    num_timesteps = model.schedule.num_timesteps

    def init(key, batch):
        example = jax.ShapeDtypeStruct(
            (1, *batch["moments"].shape[1:]), batch["moments"].dtype
        )
        z_t = jax.eval_shape(model.latent, example)
        t = jnp.zeros((1,), jnp.int32)
        variables = model.classifier.init(key, jnp.zeros(z_t.shape, z_t.dtype), t)
        return {"classifier": variables["params"]}, {}

    def loss(params, collections, batch, key, step):
        del collections, step
        key_z, key_t, key_eps, key_dropout = jax.random.split(key, 4)
        z_0 = model.latent(batch["moments"], key_z)
        t = jax.random.randint(key_t, z_0.shape[:1], 0, num_timesteps)
        eps = jax.random.normal(key_eps, z_0.shape)
        z_t = process.add_noise(model.schedule, z_0, t, eps)
        logits = model.classifier.apply(
            {"params": params["classifier"]},
            *(z_t, t),
            is_training=True,
            rngs={"dropout": key_dropout},
        )
        scores = _scores(logits, batch["label"])
        metrics = {name: values.mean() for name, values in scores.items()}
        bins = weighting.loss_by_bin(scores["loss"], t, num_timesteps)
        return metrics["loss"], (metrics | bins, {})

    return Task(init, loss)


def classify_held_out(
    model: NoisyLatentClassifier,
    params: PyTree,
    rows: Iterable[tuple[Batch, int]],
) -> dict[str, float]:
    """Classifies each latent of a set at several noise levels.

    The levels are t = 0, T/10, 2T/10, ...; the noise is the same in every call.

    Args:
      model, params: the classifier and its parameters.
      rows: (batch as in `classify_latents`, number of valid rows).

    Returns:
      "accuracy_t/0000", "accuracy_t/0100", ...: the share of latents at this t whose
      own class has the largest logit; and the means of "loss", "accuracy" and
      "accuracy_5" over these t.

    Source: the validation of the released code, at every 200th t.
    """
    levels = _noise_levels(model)
    score_at = _program(model)
    scores = {t: [] for t in levels}
    for number, (batch, valid) in enumerate(rows):
        key = jax.random.fold_in(jax.random.key(0), number)
        figures = {
            t: score_at(params, batch, jax.random.fold_in(key, t), t) for t in levels
        }
        for t, part in fetch(figures).items():
            scores[t].append({name: x[:valid] for name, x in part.items()})
    means = {
        t: {
            name: float(np.concatenate([part[name] for part in parts]).mean())
            for name in parts[0]
        }
        for t, parts in scores.items()
    }
    overall = {n: float(np.mean([m[n] for m in means.values()])) for n in MEANS}
    return overall | {_accuracy_at(t): m["accuracy"] for t, m in means.items()}


def held_out_figures(model: NoisyLatentClassifier) -> tuple[str, ...]:
    """Returns the names of the results of `classify_held_out`."""
    return (*MEANS, *map(_accuracy_at, _noise_levels(model)))


def _noise_levels(model: NoisyLatentClassifier) -> range:
    num_timesteps = model.schedule.num_timesteps
    return range(0, num_timesteps, -(-num_timesteps // NUM_LEVELS))


def _accuracy_at(t: int) -> str:
    return f"accuracy_t/{t:04d}"


@functools.lru_cache(maxsize=4)
def _program(model: NoisyLatentClassifier) -> Callable:
    """Makes (params, batch, key, t) -> scores [B] by name, compiled once."""

    @jax.jit
    def score_at(params, batch, key, t):
        key_z, key_eps = jax.random.split(key)
        z_0 = model.latent(batch["moments"], key_z)
        t = jnp.full(z_0.shape[:1], t)
        eps = jax.random.normal(key_eps, z_0.shape)
        z_t = process.add_noise(model.schedule, z_0, t, eps)
        return _scores(model.logits(params, z_t, t), batch["label"])

    return score_at


def _scores(
    logits: Float[Array, "B K"], label: Int[Array, " B"]
) -> dict[str, Float32[Array, " B"]]:
    """Computes the loss and the top-1 and top-5 accuracy of each sample."""
    rank = (logits > logits[jnp.arange(len(label)), label][:, None]).sum(-1)
    return {
        "loss": -log_probability(logits, label),
        "accuracy": (rank < 1).astype(jnp.float32),
        "accuracy_5": (rank < 5).astype(jnp.float32),
    }
