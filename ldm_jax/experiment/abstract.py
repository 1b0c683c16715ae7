# SPDX-License-Identifier: Apache-2.0
"""Shapes in the place of data and weights: what an abstract run is made of."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.conditions.base import Conditioner, Hybrid
from ldm_jax.models.features.lpips import LPIPS
from ldm_jax.tasks.model import FirstStage, LatentDiffusion
from ldm_jax.types import PyTree

Shapes = dict[str, jax.ShapeDtypeStruct]


def floats(*shape: int) -> jax.ShapeDtypeStruct:
    """Returns the shape and dtype of a float32 array."""
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def condition_shapes(
    model: LatentDiffusion, batch_size: int, grid: tuple[int, int]
) -> Shapes:
    """Lists the fields that the condition of a diffusion model reads of a batch.

    Args:
      model: of the conditioner.
      batch_size: B.
      grid: (h, w) of the latents.
    """
    size = [model.autoencoder.f * n for n in grid]
    tokens = (batch_size, *_lengths(model.conditioner))
    shapes = {
        "label": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        "tokens": jax.ShapeDtypeStruct(tokens, jnp.int32),
        "label_map": jax.ShapeDtypeStruct((batch_size, *size), jnp.int32),
        "low_res": floats(batch_size, *grid, 3),
        "image": floats(batch_size, *size, 3),
        "mask": floats(batch_size, *size, 1),
    }
    return {name: shapes[name] for name in model.conditioner.fields}


def zero_params(model: FirstStage, networks: Iterable[str]) -> dict[str, PyTree]:
    """Makes parameters that take no memory, of networks that are read, not trained.

    Args:
      model: has the networks.
      networks: "autoencoder", "conditioner".
    """
    makers = dict(
        autoencoder=lambda: _autoencoder(model),
        conditioner=lambda: _encoder(model.conditioner),
    )
    return {name: makers[name]() for name in networks}


def zero_lpips(trunk: str) -> PyTree:
    """Makes the parameters of LPIPS, which take no memory."""
    image = jnp.zeros((1, 64, 64, 3))
    return _zeros(LPIPS(trunk).init, image, image)["params"]


def _autoencoder(model: FirstStage) -> PyTree:
    side = 2 * model.autoencoder.f
    image = jnp.zeros((1, side, side, model.autoencoder.in_channels))
    return _zeros(model.autoencoder.init, image).get("params", {})


def _encoder(conditioner: Conditioner) -> PyTree:
    """Makes the parameters of a condition's encoder that are never trained."""
    if isinstance(conditioner, Hybrid):
        parts = [(name, part) for name, part in conditioner.parts if part.is_frozen]
        return {name: _encoder(part) for name, part in parts}
    module: Any = conditioner.module
    tokens = jnp.zeros((1, module.length), jnp.int32)
    return _zeros(module.init, tokens)["params"]


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
