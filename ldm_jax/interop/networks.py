# SPDX-License-Identifier: Apache-2.0
"""Rows of names for the networks of a whole model, from its spec.

A spec is a dict with the sections of a config that describe a model: "autoencoder" and
"unet" (fields of the modules), "condition" ({"kind": ...}), "schedule", "prediction"
and "latent_scale". A first stage alone has "autoencoder" and "latent_scale".
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from ldm_jax.interop import names
from ldm_jax.interop.rows import Row, rows_for
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.conditioners import ClassToken, SpatialRescaler, TokenTransformer
from ldm_jax.models.unet import UNet
from ldm_jax.types import Conditioning


def network_rows(spec: Mapping[str, Any]) -> dict[str, list[Row]]:
    """Lists the rows of every network that has parameters; nothing is computed.

    Args:
      spec: see the module.

    Returns:
      {"autoencoder": rows, "unet": rows, "conditioner": rows}, those that there are.
    """
    result = {}
    if "autoencoder" in spec:
        autoencoder = Autoencoder(**spec["autoencoder"])
        if autoencoder.bottleneck != "pixels":
            result["autoencoder"] = autoencoder_rows(autoencoder)
    if "unet" in spec:
        result["unet"] = unet_rows(make_unet(spec))
    if "condition" in spec:
        conditioner = conditioner_rows(spec["condition"])
        if conditioner:
            result["conditioner"] = conditioner
    return result


def make_unet(spec: Mapping[str, Any]) -> UNet:
    """Makes the UNet of a spec; its output is the latent's channels if not given."""
    fields = dict(spec["unet"])
    if "out_channels" not in fields:
        autoencoder = Autoencoder(**spec["autoencoder"])
        fields["out_channels"] = autoencoder.embed_channels
    return UNet(**fields)


def autoencoder_rows(model: Autoencoder) -> list[Row]:
    """Spells out the names of an autoencoder's parameters."""
    side = model.f
    image = jax.ShapeDtypeStruct((1, side, side, model.in_channels), jnp.float32)
    return rows_for(
        names.AUTOENCODER,
        _shapes(model, image),
        num_levels=len(model.channel_mult),
        num_res_blocks=model.num_res_blocks,
    )


def unet_rows(model: UNet) -> list[Row]:
    """Spells out the names of a UNet's parameters."""
    side = 2 ** (len(model.channel_mult) - 1)
    channels = model.in_channels or model.out_channels
    z_t = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.int32)
    context = label = None
    if model.context_dim is not None:
        context = jax.ShapeDtypeStruct((1, 1, model.context_dim), jnp.float32)
    if model.num_classes is not None:
        label = t
    return rows_for(
        names.unet_table(model.transformer_depth),
        _shapes(model, z_t, t, Conditioning(context=context, class_label=label)),
        num_levels=len(model.channel_mult),
        num_res_blocks=model.num_res_blocks,
        attention_levels=tuple(model.attention_levels),
        heads=lambda width: model.num_heads or width // model.head_channels,
    )


def conditioner_rows(condition: Mapping[str, Any]) -> list[Row]:
    """Spells out the names of a conditioner's parameters; [] if it has none."""
    fields = dict(condition)
    kind = fields.pop("kind")
    if kind == "class" and fields.get("width", 512) is not None:
        rows = fields["num_classes"] + fields.get("has_null", True)
        module = ClassToken(rows, fields.get("width", 512))
        label = jax.ShapeDtypeStruct((1,), jnp.int32)
        return rows_for(names.CLASS_TOKEN, _shapes(module, label))
    if kind in ("text", "layout"):
        module = token_transformer(condition)
        tokens = jax.ShapeDtypeStruct((1, module.length), jnp.int32)
        return rows_for(names.TOKEN_TRANSFORMER, _shapes(module, tokens))
    if kind == "semantic":
        module = SpatialRescaler(**fields)
        side = 2**module.num_stages
        labels = jax.ShapeDtypeStruct((1, side, side), jnp.int32)
        return rows_for(names.SPATIAL_RESCALER, _shapes(module, labels))
    return []


def token_transformer(condition: Mapping[str, Any]) -> TokenTransformer:
    """Makes the network of a "text" or "layout" condition."""
    layout = condition["kind"] == "layout"
    defaults = {"vocab_size": 8192 if layout else 30522, "length": 92 if layout else 77}
    known = {field for field in TokenTransformer.__dataclass_fields__}
    given = {name: value for name, value in condition.items() if name in known}
    return TokenTransformer(**defaults | given)


def _shapes(module: nn.Module, *inputs) -> dict[str, tuple[int, ...]]:
    """{path: shape} of a module's parameters, by abstract evaluation."""
    params = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    flat = traverse_util.flatten_dict(params, sep="/")
    return {path: leaf.shape for path, leaf in flat.items()}
