# SPDX-License-Identifier: Apache-2.0
"""What a config trains, with no data and no weights: for plans and benchmarks."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.conditions.base import Conditioner, Hybrid
from ldm_jax.data.transforms.image_transform import ImageTransform
from ldm_jax.experiment import experiment
from ldm_jax.experiment.sections import LatentSet
from ldm_jax.experiment.text_encoder import described
from ldm_jax.models.features.lpips import LPIPS
from ldm_jax.tasks.first_stage import first_stage
from ldm_jax.tasks.latent_diffusion import Objective, latent_diffusion
from ldm_jax.tasks.model import FirstStage, LatentDiffusion
from ldm_jax.types import PyTree, Task


class Blueprint(NamedTuple):
    """What is trained.

    Attributes:
      task: as `jobs.train` makes it; its frozen parameters are zeros without memory.
      batch: field -> jax.ShapeDtypeStruct of a global batch.
      model: the spec.
      label: kind of the experiment, in words.
    """

    task: Task
    batch: dict[str, jax.ShapeDtypeStruct]
    model: FirstStage
    label: str


def draw_up(config) -> Blueprint:
    """Makes the task of a config and the shapes of its batches.

    A diffusion model is taken to learn from latents, whatever its data.

    Raises:
      ValueError: the config is not right.
    """
    experiment.check_config(config)
    config = described(config)
    make = dict(first_stage=_first_stage, latent_diffusion=_latent_diffusion)
    return make[config.task](config)


def _first_stage(config) -> Blueprint:
    model = experiment.make_first_stage(config)
    size = ImageTransform(**config.transform).size
    image = _floats((config.batch_size, *size, model.autoencoder.in_channels))
    model.autoencoder.latent_shape(image.shape)
    trunk, lpips = config.objective.get("perceptual"), None
    if trunk not in (None, "none"):
        picture = jnp.zeros((1, 64, 64, 3))
        lpips = _zeros(LPIPS(trunk).init, picture, picture)["params"]
    task = first_stage(model.autoencoder, perceptual_params=lpips, **config.objective)
    return Blueprint(task, {"image": image}, model, "training step of a first stage")


def _latent_diffusion(config) -> Blueprint:
    scale = 1.0 if config.latents.scale is None else config.latents.scale
    model = experiment.make_latent_diffusion(config, scale)
    h, w, c = LatentSet(**config.latents).latent_shape(model.autoencoder)
    moments = model.autoencoder.regularizer.moments_channels(c)
    fields = condition_shapes(model, config.batch_size, (h, w))
    batch = {"moments": _floats((config.batch_size, h, w, moments)), **fields}
    frozen = frozen_zeros(model, model.conditioner.reads_frozen)
    task = latent_diffusion(model, Objective(**config.objective), frozen)
    return Blueprint(task, batch, model, "training step of a denoiser")


def frozen_zeros(model: LatentDiffusion, names: Iterable[str]) -> dict[str, PyTree]:
    """Makes parameters, which take no memory, of networks that are only read."""
    makers = dict(
        autoencoder=lambda: autoencoder_zeros(model),
        conditioner=lambda: _encoder_zeros(model.conditioner),
    )
    return {name: makers[name]() for name in names}


def _encoder_zeros(conditioner: Conditioner) -> PyTree:
    """Makes the parameters of a condition's encoder that are never trained."""
    if isinstance(conditioner, Hybrid):
        parts = [(name, part) for name, part in conditioner.parts if part.is_frozen]
        return {name: _encoder_zeros(part) for name, part in parts}
    module: Any = conditioner.module
    tokens = jnp.zeros((1, module.length), jnp.int32)
    return _zeros(module.init, tokens)["params"]


def autoencoder_zeros(model: FirstStage) -> PyTree:
    """Makes parameters of the first stage that take no memory."""
    side = 2 * model.autoencoder.f
    image = jnp.zeros((1, side, side, model.autoencoder.in_channels))
    return _zeros(model.autoencoder.init, image)["params"]


def condition_shapes(model, batch_size: int, grid: tuple[int, int]):
    """Lists the fields that the condition of a diffusion model reads of a batch."""
    size = [model.autoencoder.f * n for n in grid]
    shapes = {
        "label": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        "tokens": jax.ShapeDtypeStruct(
            (batch_size, *_lengths(model.conditioner)), jnp.int32
        ),
        "label_map": jax.ShapeDtypeStruct((batch_size, *size), jnp.int32),
        "low_res": _floats((batch_size, *grid, 3)),
        "image": _floats((batch_size, *size, 3)),
        "mask": _floats((batch_size, *size, 1)),
    }
    return {name: shapes[name] for name in model.conditioner.fields}


def _lengths(conditioner: Conditioner) -> list[int]:
    """Lists the numbers of tokens that the parts of a condition take."""
    parts = [part for _, part in getattr(conditioner, "parts", ())] or [conditioner]
    modules = [part.module for part in parts if "tokens" in part.fields]
    return [module.length for module in modules if module is not None]


def _zeros(init, *args) -> PyTree:
    """Makes what a module's `init` would draw: zeros, one number in memory for each."""
    shapes = jax.eval_shape(init, jax.random.key(0), *args)
    return jax.tree.map(
        lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), shapes
    )


def _floats(shape) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(shape), jnp.float32)
