# SPDX-License-Identifier: Apache-2.0
"""CLIP's text tower under the names of transformers' CLIPTextModel."""

import jax
import jax.numpy as jnp

from ldm_jax.types import PyTree

LAYER_NAMES = {
    "norm_1": "layer_norm1",
    "norm_2": "layer_norm2",
    "mlp_in": "mlp.fc1",
    "mlp_out": "mlp.fc2",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "out": "self_attn.out_proj",
}


def clip_source_name(path: tuple[str, ...]) -> tuple[str, bool]:
    """Names the tensor of a CLIPTextModel behind one of our parameters.

    Args:
      path: names from the root, e.g. ("layer_0", "attn", "q", "kernel").

    Returns:
      Its name in a published file, and whether it is stored transposed.
    """
    suffix = "bias" if path[-1] == "bias" else "weight"
    if path[0] in ("token_embedding", "position_embedding"):
        return f"text_model.embeddings.{path[0]}.weight", False
    if path[0] == "norm_out":
        return f"text_model.final_layer_norm.{suffix}", False
    if path[0] == "projection":
        return "text_projection.weight", True
    layer = path[0].removeprefix("layer_")
    name = f"text_model.encoder.layers.{layer}.{LAYER_NAMES[path[-2]]}.{suffix}"
    return name, path[-1] == "kernel"


def import_clip(shapes: PyTree, tensors) -> PyTree:
    """Takes the parameters of a `ClipText` over from a published file's tensors.

    Args:
      shapes: pytree of the parameters' shapes, from `jax.eval_shape` of init.
      tensors: {name: array} of a CLIPTextModel (or the whole CLIPModel).

    Raises:
      ValueError: a tensor is missing or has another shape.
    """

    def leaf(path, expected):
        name, is_transposed = clip_source_name(tuple(entry.key for entry in path))
        if name not in tensors:
            raise ValueError(
                f"a CLIP text tower must hold {name}: it is not among "
                f"{len(tensors)} tensors; give the file of the same model size."
            )
        value = jnp.asarray(tensors[name], jnp.float32)
        value = value.T if is_transposed else value
        if value.shape != expected.shape:
            raise ValueError(
                f"{name} must have shape {expected.shape} as ours: got {value.shape}; "
                "give ClipText the width, length and vocabulary of the file."
            )
        return value

    return jax.tree_util.tree_map_with_path(leaf, shapes)
