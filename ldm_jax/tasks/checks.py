# SPDX-License-Identifier: Apache-2.0
"""Checks the arguments of the functions of a model."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import errors
from jax.typing import ArrayLike
from jaxtyping import Float

from ldm_jax.types import Array, Conditioning, PyTree


def check_networks(params: PyTree) -> None:
    """Raises ValueError unless parameters are a dict from names to networks."""
    if not isinstance(params, Mapping):
        raise ValueError(
            f"params must have an entry per network: got {type(params).__name__}; give "
            "the params that ldm_jax.load returned with this model."
        )


def network_of(params: PyTree, name: str) -> PyTree:
    """Returns the parameters of a network.

    Raises:
      ValueError: the network is missing, or its entry is not a dict of parameters.
    """
    if not isinstance(params, Mapping) or name not in params:
        got = (
            f"those of {', '.join(map(str, params)) or 'no network'}"
            if isinstance(params, Mapping)
            else type(params).__name__
        )
        raise ValueError(
            f'params must have the entry "{name}": got {got}; give the params that '
            "ldm_jax.load returned with this model."
        )
    network = params[name]
    if not isinstance(network, Mapping):
        raise ValueError(
            f'params["{name}"] must be a dict of parameters: got '
            f"{type(network).__name__}; give the params that ldm_jax.load returned "
            "with this model."
        )
    return network


_ABOUT_PARAMS = (
    errors.ScopeParamNotFoundError,
    errors.ScopeParamShapeError,
    errors.ScopeCollectionNotFound,
)


@contextlib.contextmanager
def naming_params(name: str) -> Iterator[None]:
    """Names the network in Flax's errors about unsuitable parameters.

    Args:
      name: of the network in `params`.

    Raises:
      ValueError: the parameters are those of another network.
    """
    try:
        yield
    except errors.FlaxError as error:
        reason = str(error).partition(" (https://")[0].rstrip(".")  # without its page
        # Flax's own error repeats the reason below 40 lines of its frames.
        cause = None if isinstance(error, _ABOUT_PARAMS) else error
        raise ValueError(
            f'params["{name}"] must be those of this model: got {reason}; give the '
            "params that ldm_jax.load returned with it."
        ) from cause


def check_axes(name: str, array: Any, channels: int) -> None:
    """Raises ValueError unless an array is [B, height, width, channels]."""
    shape = getattr(array, "shape", None)
    if shape is None or len(shape) != 4 or shape[-1] != channels or 0 in shape:
        got = type(array).__name__ if shape is None else f"shape {tuple(shape)}"
        raise ValueError(
            f"{name} must be an array [B, height, width, {channels}]: got {got}; a "
            "single one is x[None], and channels come last."
        )


def check_steps(t: ArrayLike, num_timesteps: int) -> None:
    """Raises ValueError for steps that the schedule does not have.

    Args:
      t: before a conversion by JAX, which would cut 64 bits to 32.
      num_timesteps: T.
    """
    t = t if isinstance(t, jax.Array) else np.asarray(t)
    if t.dtype == bool:
        raise ValueError("t must hold numbers of steps: got booleans; give integers.")
    low, high = float(t.min()), float(t.max())
    if not 0 <= low <= high <= num_timesteps - 1:  # NaN is not either
        raise ValueError(
            f"t must be in [0, {num_timesteps}): got {low:g} to {high:g}; the "
            f"noisiest step is {num_timesteps - 1}."
        )


def check_batch_sizes(z: Float[Array, "B h w c"], cond: Conditioning) -> None:
    """Raises ValueError unless a condition has one row for each latent."""
    for name, array in cond._asdict().items():
        if array is not None and array.shape[0] != z.shape[0]:
            raise ValueError(
                f"latents and their condition must have one batch size: got "
                f"{z.shape[0]} latents and {name} of {array.shape[0]} rows; give one "
                "row for each latent."
            )
