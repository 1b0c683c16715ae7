# SPDX-License-Identifier: Apache-2.0
"""Glossary: the few types that more than one room of the house speaks of.

Axes, everywhere in this package: **B** batch, **H, W** image, **f** downsampling,
**h = H/f, w = W/f** latent grid, **c** latent channels, **M** context tokens, **d**
their width, **k** concatenated channels, **T** training steps of noise, **S** sampling
steps. Channels come last.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

Array = jax.Array
PyTree = Any

# Axes of the mesh (parallel/sharding.py): a batch is split over the first two, channels
# over the last.
BATCH_AXES = ("data", "fsdp")
TENSOR_AXIS = "tensor"

# A dict of arrays whose first axis is B: "image", "moments", "label", "tokens", ...
Batch = dict[str, Array]

# (z_t [B, h, w, c], t [B] int32 in [0, T)) -> prediction [B, h, w, c].
Denoiser = Callable[[Array, Array], Array]


class Conditioning(NamedTuple):
    """What a denoiser is told besides z_t and t; an absent entry is None.

    Attributes:
      context: [B, M, d] tokens attended to by cross-attention.
      concat: [B, h, w, k] channels joined to z_t.
      class_label: [B] int32, embedded by the UNet and added to the time embedding
        (the "adm" way of Dhariwal & Nichol 2021).
    """

    context: Array | None = None
    concat: Array | None = None
    class_label: Array | None = None


class Task(NamedTuple):
    """What is learned: two pure functions and what they read but never change.

    Attributes:
      init: (key, batch) -> (params, collections). `batch` may hold
        `jax.ShapeDtypeStruct`s; only shapes and dtypes are read. `params` has one entry
        per network ({"unet": ..., "conditioner": ...}); `collections` holds what a step
        changes without a gradient ({} or {"batch_stats": ...}).
      loss: (params, collections, batch, key, step) -> (scalar, (metrics, collections)).
        `collections` also holds "frozen" on the way in, and never on the way out;
        `metrics` is a dict of float32 scalars.
      frozen: pytree of parameters the loss reads and never changes (a first stage,
        LPIPS); neither trained nor checkpointed.
    """

    init: Callable[[Array, Mapping[str, Any]], tuple[PyTree, PyTree]]
    loss: Callable[..., tuple[Array, tuple[dict[str, Array], PyTree]]]
    frozen: PyTree = ()
