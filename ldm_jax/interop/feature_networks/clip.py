# SPDX-License-Identifier: Apache-2.0
"""Reads CLIP's two towers from files of transformers' CLIPModel or CLIPTextModel."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from ldm_jax.interop import names
from ldm_jax.interop.layouts import import_flat
from ldm_jax.interop.name_rows import rows_for
from ldm_jax.types import PyTree


def import_clip(
    shapes: PyTree, tensors: Mapping[str, np.ndarray], table=names.CLIP_TEXT
) -> PyTree:
    """Takes the parameters of a tower over from a published file's tensors.

    Args:
      shapes: pytree of the parameters' shapes, from `jax.eval_shape` of init.
      tensors: {name: array} of a CLIPTextModel (or the whole CLIPModel).
      table: CLIP_TEXT for a `ClipText`, CLIP_IMAGE for a `ClipImage`.

    Raises:
      ValueError: a tensor is missing or has another shape.
    """
    flat: dict[str, Any] = dict(traverse_util.flatten_dict(shapes, sep="/"))
    rows = rows_for(table, {path: leaf.shape for path, leaf in flat.items()})
    return traverse_util.unflatten_dict(
        import_flat(tensors, rows, "diffusers"), sep="/"
    )
