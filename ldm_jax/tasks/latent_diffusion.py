# SPDX-License-Identifier: Apache-2.0
"""The task of a diffusion model in latent space: Rombach et al. 2022, Eq. 2 and 3."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ldm_jax.diffusion import process, weighting
from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.tasks.model import LatentDiffusion
from ldm_jax.types import Array, Batch, Conditioning, PyTree, RandomKey, Task


@dataclasses.dataclass(frozen=True)
class Objective:
    """Settings of the loss: distance, weights, and dropping of the condition.

    Attributes:
      distance: "l2" or "l1", per element.
      weighting: "uniform", "min_snr" or "p2", over t.
      gamma: the weighting's gamma; None takes that of the weighting's paper.
      simple_weight: weight of the plain term (CompVis `l_simple_weight`).
      elbo_weight: weight of the variational bound (CompVis `original_elbo_weight`).
      learn_log_variance: whether a log-variance per t is a parameter.
      drop_probability: probability in [0, 1] with which a sample's condition is
        replaced by the null condition, so that guidance can be used.
    """

    distance: str = "l2"
    weighting: str = "uniform"
    gamma: float | None = None
    simple_weight: float = 1.0
    elbo_weight: float = 0.0
    learn_log_variance: bool = False
    drop_probability: float = 0.0

    def __post_init__(self):
        if not 0 <= self.drop_probability <= 1:
            raise ValueError(
                "drop_probability is a probability: got "
                f"{self.drop_probability}; choose a number from 0 to 1."
            )
        if self.distance not in weighting.DISTANCES:
            raise ValueError(
                f'unknown distance "{self.distance}"; one of: '
                f"{', '.join(weighting.DISTANCES)}."
            )

    def make_loss(self, schedule: NoiseSchedule, prediction: str) -> Callable:
        """Makes the function that weights the errors of a batch and averages them.

        Args:
          schedule: of T steps.
          prediction: what the denoiser predicts, "eps", "x0" or "v".

        Returns:
          (errors [B] from `weighting.distance`, t [B], log_variance=[T] or None) ->
          (loss, metrics), see `weighting.diffusion_loss`.

        Raises:
          ValueError: an unknown weighting, or weights that the prediction does not
            have.
        """
        elbo = None  # v has none; elbo_weights refuses it where it has a weight
        if prediction != "v" or self.elbo_weight:
            elbo = weighting.elbo_weights(schedule, prediction)
        return functools.partial(
            weighting.diffusion_loss,
            weights=weighting.snr_weights(
                schedule, self.weighting, prediction, self.gamma
            ),
            simple_weight=self.simple_weight,
            elbo=elbo,
            elbo_weight=self.elbo_weight,
        )


def networks_read(model: LatentDiffusion, encodes_images: bool) -> set[str]:
    """Names the networks that training reads and does not change.

    Args:
      model: the diffusion model.
      encodes_images: whether the first stage encodes images in every step.

    Returns:
      Some of "autoencoder" and "conditioner".
    """
    return {*model.conditioner.reads_frozen, *("autoencoder",) * encodes_images}


def latent_diffusion(
    model: LatentDiffusion,
    objective: Objective,
    frozen: Mapping[str, PyTree] | None = None,
    encodes_images: bool = False,
) -> Task:
    """Makes the task of predicting the noise in latents.

        L = E_{z_0, y, eps, t} || eps - eps_theta(z_t, t, tau_theta(y)) ||^2

    A batch contains the fields of `model.conditioner` and "moments" [B, h, w, 2c] (VQ:
    [B, h, w, c] before quantization), the unscaled output of the first stage; or,
    instead of moments, "image" [B, H, W, 3] in [-1, 1], which is encoded in the step.

    Args:
      model: the networks, the schedule and the latent scale.
      objective: distance and weights.
      frozen: parameters that are read and never changed, by network, or None.
      encodes_images: whether batches hold images; needs frozen["autoencoder"].

    Returns:
      Task with params {"unet": ..., "conditioner": ... (if it has any),
      "log_variance": [T] (if learned)}.

    Raises:
      ValueError: a drop probability for an unconditional model, weights that are not
        defined for the prediction, or `frozen` lacks a network that the model reads.

    Source: Rombach et al. 2022, Eq. 2 and 3.
    """
    if objective.drop_probability and model.conditioner.kind == "none":
        raise ValueError(
            'drop_probability needs a condition: got condition.kind "none"; set '
            "drop_probability to 0."
        )
    frozen = _select_frozen(networks_read(model, encodes_images), frozen or {})
    schedule, prediction = model.schedule, model.prediction
    average = objective.make_loss(schedule, prediction)

    def latent(batch, frozen, key=None):
        if not encodes_images:
            return model.latent(batch["moments"], key)
        return model.latent(model.moments(frozen, batch["image"]), key)

    def init(key, batch):
        def inputs(cond_params, batch):
            cond = model.conditioner.encode(cond_params, batch, frozen)
            return latent(batch, frozen), cond

        params = _init_networks(model, key, batch, inputs)
        if objective.learn_log_variance:
            params["log_variance"] = jnp.zeros(schedule.num_timesteps)
        return params, {}

    def loss(params, collections, batch, key, step):
        del step
        frozen = collections["frozen"]
        keys = jax.random.split(key, 5)
        key_z, key_t, key_eps, key_drop, key_dropout = keys

        # z_t ~ q(z_t | z_0) at a step t that is uniform in [0, T).
        z_0 = latent(batch, frozen, key_z)
        t = jax.random.randint(key_t, z_0.shape[:1], 0, schedule.num_timesteps)
        eps = jax.random.normal(key_eps, z_0.shape)
        z_t = process.add_noise(schedule, z_0, t, eps)

        # tau_theta(y); y is null with probability p, for classifier-free guidance.
        y = model.conditioner.drop(batch, key_drop, objective.drop_probability)
        cond = model.conditioner.encode(params.get("conditioner", {}), y, frozen)
        predicted = model.unet.apply(
            {"params": params["unet"]},
            *(z_t, t, cond),
            is_training=True,
            rngs={"dropout": key_dropout},
        )

        # Eq. 3: the target is eps for prediction "eps", the distance the squared error.
        target = process.make_target(schedule, prediction, z_0, t, eps)
        errors = weighting.distance(objective.distance, predicted, target)
        total, metrics = average(errors, t, log_variance=params.get("log_variance"))
        bins = weighting.loss_by_bin(errors, t, schedule.num_timesteps)
        return total, (metrics | bins, {})

    return Task(init, loss, frozen)


def _select_frozen(
    names: Collection[str], frozen: Mapping[str, PyTree]
) -> dict[str, PyTree]:
    """Returns the parameters of the named networks.

    Raises:
      ValueError: those of a network are missing.
    """
    if missing := sorted(set(names) - set(frozen)):
        raise ValueError(
            f"the model reads the {' and '.join(missing)}, which it never trains: got "
            "no parameters; name a model directory that has them in config."
            "text_encoder.directory (conditioner) or latents.first_stage (autoencoder)."
        )
    return {name: frozen[name] for name in sorted(names)}


def _init_networks(
    model: LatentDiffusion,
    key: RandomKey,
    batch: Mapping[str, Any],
    inputs: Callable[[PyTree, Batch], tuple[Array, Conditioning]],
) -> dict[str, PyTree]:
    """Draws the parameters of the denoiser, and of the conditioner if it has any.

    Args:
      model: the networks.
      key: a random key.
      batch: arrays or jax.ShapeDtypeStruct; only shapes and dtypes are read.
      inputs: (conditioner's parameters, batch) -> (z_0, cond); traced, not run.
    """
    key_unet, key_cond = jax.random.split(key)
    row = {name: jnp.zeros((1, *x.shape[1:]), x.dtype) for name, x in batch.items()}
    cond_params = model.conditioner.init(key_cond, row)
    shapes = jax.eval_shape(lambda params: inputs(params, row), cond_params)
    z_0, cond = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    t = jnp.zeros((1,), jnp.int32)
    params = {"conditioner": cond_params} if cond_params else {}
    params["unet"] = model.unet.init(key_unet, z_0, t, cond)["params"]
    return params
