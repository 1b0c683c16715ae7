# SPDX-License-Identifier: Apache-2.0
"""Classifiers of noisy latents under the names of the original.

LDM's EncoderUNetModel, and guided-diffusion's, whose classifiers of noisy images have
the same names. The original's checkpoint of a classifier also holds the diffusion model
("diffusion_model."), which is not read.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from ldm_jax.interop import names
from ldm_jax.interop.layouts import NamesDiffer, export_flat, import_flat, listed
from ldm_jax.interop.name_rows import NameRow, parameter_shapes, rows_for
from ldm_jax.models.classifier import LatentClassifier
from ldm_jax.types import PyTree

PREFIX = "model."
GUIDED = "diffusion_model."


# A classifier of noisy latents: the UNet without its way up, and a head.
BODY = tuple(
    row
    for row in names.unet_table(0)
    if not row[0].startswith(("up_", "norm_out", "conv_out", "label_embedding"))
)
LAYERS = ("norm_out", "pool", "conv_out", "dense_0", "norm", "dense_1")
HEADS = {
    pool: tuple((ours, name, name, kind) for ours, name, kind in rows)
    for pool, rows in {
        "attention": (
            ("norm_out", "out.0", "vector"),
            ("pool/position_embedding", "out.2.positional_embedding", "dense"),
            ("pool/q", "out.2.qkv_proj", "qkv"),
            ("pool/k", "out.2.qkv_proj", "qkv"),
            ("pool/v", "out.2.qkv_proj", "qkv"),
            ("pool/out", "out.2.c_proj", "pointwise_1d"),
        ),
        "adaptive": (("norm_out", "out.0", "vector"), ("conv_out", "out.3", "conv")),
        "spatial": (("dense_0", "out.0", "dense"), ("dense_1", "out.2", "dense")),
        "spatial_v2": (
            ("dense_0", "out.0", "dense"),
            ("norm", "out.1", "vector"),
            ("dense_1", "out.3", "dense"),
        ),
    }.items()
}


def classifier_rows(model: LatentClassifier) -> tuple[NameRow, ...]:
    """Spells out the names of a classifier's parameters; nothing is computed."""
    side = model.latent_size
    z_t = jax.ShapeDtypeStruct((1, side, side, model.latent_channels), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.int32)
    shapes = parameter_shapes(model, z_t, t)
    head = {path for path in shapes if path.split("/")[0] in LAYERS}
    body = rows_for(
        BODY,
        {path: shape for path, shape in shapes.items() if path not in head},
        num_levels=len(model.channel_mult),
        num_res_blocks=model.num_res_blocks,
        attention_levels=tuple(model.attention_levels),
        heads=lambda width: model.num_heads or width // (model.head_channels or width),
    )
    # The pooling's q, k and v are [3, heads, width], those of the blocks [heads, 3,
    # width]: as one head both are the same.
    return body + rows_for(
        HEADS[model.pool],
        {path: shape for path, shape in shapes.items() if path in head},
    )


def import_classifier(
    weights: Mapping[str, np.ndarray], model: LatentClassifier
) -> PyTree:
    """Converts the tensors of a classifier to our parameters.

    Args:
      weights: {name: array}, with or without the prefix "model.".
      model: the network that they are for.

    Raises:
      NamesDiffer: tensors are missing, left over or of another shape, by name.
    """
    own = {name: a for name, a in weights.items() if not name.startswith(GUIDED)}
    if own and all(name.startswith(PREFIX) for name in own):
        own = {name.removeprefix(PREFIX): array for name, array in own.items()}
    rows = classifier_rows(model)
    flat = import_flat(own, rows, "compvis")
    known = {row.names[0] for row in rows}
    left_over = [f"left over: {n} {np.shape(own[n])}" for n in own if n not in known]
    if left_over:
        what = "the file holds tensors that the classifier does not have"
        raise NamesDiffer(listed(what, left_over))
    return traverse_util.unflatten_dict(flat, sep="/")


def export_classifier(params: PyTree, model: LatentClassifier) -> dict[str, np.ndarray]:
    """Converts our parameters to tensors by the original's names, without prefix."""
    flat: dict[str, Any] = dict(traverse_util.flatten_dict(params, sep="/"))
    return export_flat(flat, classifier_rows(model), "compvis")
