# SPDX-License-Identifier: Apache-2.0
"""Defines the axes, types and records that several folders share.

Axes, everywhere in this package: **B** batch, **H, W** image, **f** downsampling,
**h = H/f, w = W/f** latent grid, **c** latent channels, **M** context tokens, **d**
their width, **k** concatenated channels, **T** noise levels of the schedule, **S**
sampling steps. Channels come last.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsInt

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr
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


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
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
    _traced: dict[frozenset, tuple[ClosedJaxpr, Any]] = dataclasses.field(
        default_factory=dict, init=False, repr=False
    )

    def trace_init(
        self, batch: Mapping[str, Array | jax.ShapeDtypeStruct]
    ) -> tuple[ClosedJaxpr, tuple[PyTree, PyTree]]:
        """Traces `init` for a batch: once, as it takes seconds for a large network.

        Returns:
          (the program, whose one input is the key; (params, collections) of
          jax.ShapeDtypeStruct).
        """
        shapes = {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()
        }
        known = frozenset(shapes.items())
        if known not in self._traced:
            trace = jax.make_jaxpr(
                lambda key: self.init(key, shapes), return_shape=True
            )
            self._traced[known] = trace(jax.eval_shape(lambda: jax.random.key(0)))
        return self._traced[known]

    def shapes(
        self, batch: Mapping[str, Array | jax.ShapeDtypeStruct]
    ) -> tuple[PyTree, PyTree]:
        """Returns (params, collections) of jax.ShapeDtypeStruct, as `init` makes them.

        Args:
          batch: field -> array or jax.ShapeDtypeStruct.
        """
        return self.trace_init(batch)[1]
