# SPDX-License-Identifier: Apache-2.0
"""Makes abstract runs, which have shapes instead of data and weights."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.models.features.lpips import LPIPS
from ldm_jax.tasks.model import FirstStage, LatentDiffusion
from ldm_jax.types import PyTree

Shapes = dict[str, jax.ShapeDtypeStruct]


def floats(*shape: int) -> jax.ShapeDtypeStruct:
    """Returns the shape and dtype of a float32 array."""
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def zero_params(model: FirstStage, networks: Iterable[str]) -> dict[str, PyTree]:
    """Makes parameters, without memory, for the networks that training only reads.

    Args:
      model: contains the networks.
      networks: "autoencoder", "conditioner".
    """
    makers = dict(
        autoencoder=lambda: _autoencoder(model),
        conditioner=lambda: _encoder(model),
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


def _encoder(model: FirstStage) -> PyTree:
    """Makes the parameters of a condition's encoder which are not trained."""
    assert isinstance(model, LatentDiffusion)  # it alone has a condition
    f, condition = model.autoencoder.f, model.conditioner
    return _zeros(condition.init_frozen, condition.shapes(1, (f, f), f))


def _zeros(init, *args) -> PyTree:
    """Makes zeros of the shapes of `init`, with one number in memory for each array."""
    shapes = jax.eval_shape(lambda key: init(key, *args), jax.random.key(0))
    return jax.tree.map(
        lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), shapes
    )
