# SPDX-License-Identifier: Apache-2.0
"""Defines the axes, types and records that several folders share.

Axes, everywhere in this package: **B** batch, **H, W** image, **f** downsampling,
**h = H/f, w = W/f** latent grid, **c** latent channels, **M** context tokens, **d**
their width, **k** concatenated channels, **T** noise levels of the schedule, **S**
sampling steps. Channels come last.
"""

import numbers
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsInt

import jax
import numpy as np
from jaxtyping import Float, Int, Key, UInt32

# Arrays of JAX, also traced ones, or of NumPy, which JAX accepts in their place.
Array = jax.Array | np.ndarray
PyTree = Any

# A data type as JAX takes it: jnp.bfloat16, "bfloat16" or a NumPy dtype.
DType = jax.typing.DTypeLike

# A length. Where a program is exported for batches of any size it is an expression,
# which JAX's own types, those of `Array.shape`, call an int as well.
if TYPE_CHECKING:
    Size = int
    # JAX declares its own name of this class as a variable.
    from jaxlib._jax import Device
else:
    Size = SupportsInt
    Device = jax.Device

# A random key, or one key per sample; typed, or the raw numbers of older programs.
RandomKey = Key[Array, "..."] | UInt32[Array, "... 2"]

# Axes of the mesh (parallel/sharding.py): a batch is split over the first two, channels
# over the last.
BATCH_AXES = ("data", "fsdp")
TENSOR_AXIS = "tensor"

# Arrays whose first axis is B: "image", "moments", "label", "tokens", ...
Batch = Mapping[str, Array]

# (z_t, t in [0, T)) -> the network's prediction.
Denoiser = Callable[
    [Float[Array, "B h w c"], Int[Array, " B"]], Float[Array, "B h w c"]
]


class Conditioning(NamedTuple):
    """Inputs of a denoiser besides z_t and t; an absent entry is None.

    Attributes:
      context: [B, M, d] tokens that cross-attention attends to.
      concat: [B, h, w, k] channels concatenated with z_t.
      class_label: [B] int32 classes, embedded by the UNet and added to the time
        embedding (called "adm" by Dhariwal & Nichol 2021).
    """

    context: Array | None = None
    concat: Array | None = None
    class_label: Array | None = None


class Task(NamedTuple):
    """Defines what is learned: two pure functions and their constant parameters.

    Attributes:
      init: (key, batch) -> (params, collections). `batch` may hold
        `jax.ShapeDtypeStruct`s; only shapes and dtypes are read. `params` has one entry
        per network ({"unet": ..., "conditioner": ...}); `collections` holds variables
        that a step updates without a gradient ({} or {"batch_stats": ...}).
      loss: (params, collections, batch, key, step) -> (scalar, (metrics, collections)).
        The input `collections` also holds "frozen", the output never does; `metrics`
        is a dict of float32 scalars.
      frozen: pytree of constant parameters that the loss reads (a first stage, LPIPS);
        they are neither trained nor checkpointed.
    """

    init: Callable[[Array, Mapping[str, Any]], tuple[PyTree, PyTree]]
    loss: Callable[..., tuple[Array, tuple[dict[str, Array], PyTree]]]
    frozen: PyTree = ()


# What settings may be, and how errors call it. Lists are what JSON makes of tuples.
_ACCEPTED = {
    bool: (bool, "True or False"),
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    str: (str, "a text"),
    tuple: (Sequence, "a tuple"),
}


def check_type(name: str, value: Any, annotation: Any, way_out: str) -> None:
    """Checks that a setting has the type of its annotation.

    Args:
      name: of the setting, for the error.
      value: that was given.
      annotation: bool, int, float, str or a tuple; or one of these or None.
      way_out: the end of the error.

    Raises:
      TypeError: it has another one.
    """
    is_union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
    kinds = typing.get_args(annotation) if is_union else (annotation,)
    if value is None and type(None) in kinds:
        return
    (kind, *_) = (typing.get_origin(k) or k for k in kinds if k is not type(None))
    accepted, noun = _ACCEPTED[kind]
    # A bool is an int and a text a sequence to Python, but neither is meant.
    is_other = isinstance(value, bool | str) and kind not in (bool, str)
    if is_other or not isinstance(value, accepted):
        raise TypeError(f"{name} must be {noun}: got {value!r}; {way_out}.")
