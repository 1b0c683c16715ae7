# SPDX-License-Identifier: Apache-2.0
"""The task of a classifier of noisy latents, whose gradient guides samples."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from ldm_jax.diffusion import process, weighting
from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.models.classifier import LatentClassifier, log_probability
from ldm_jax.tasks.model import FirstStage
from ldm_jax.types import Array, PyTree, Task


@dataclasses.dataclass(frozen=True, eq=False)
class NoisyLatentClassifier(FirstStage):
    """A classifier and the diffusion model's first stage, scale and noise schedule.

    Attributes:
      classifier: the network, or another module that is called like it.
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
    """Makes the task of naming the class of a noisy latent.

        L = E_{z_0, y, eps, t} -ln p(y | z_t),  t uniform in [0, T)

    A batch holds "moments", raw as the first stage gave them, and "label" [B] int32 in
    [0, K). The latents are scaled and noised as those of the diffusion model.

    Returns:
      Task with params {"classifier": ...}; its metrics are "loss", "accuracy" and
      "accuracy_5" (shares of samples whose class is first, or among the first five),
      and the loss by range of t.

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
        errors = -log_probability(logits, batch["label"])
        rank = (logits > logits[jnp.arange(len(t)), batch["label"]][:, None]).sum(-1)
        metrics = {
            "loss": errors.mean(),
            "accuracy": (rank < 1).mean(dtype=jnp.float32),
            "accuracy_5": (rank < 5).mean(dtype=jnp.float32),
        }
        bins = weighting.loss_by_bin(errors, t, num_timesteps)
        return metrics["loss"], (metrics | bins, {})

    return Task(init, loss)
