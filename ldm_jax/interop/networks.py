# SPDX-License-Identifier: Apache-2.0
"""Rows of names for the networks of a whole model, from its spec.

A spec is a dict with the sections of a config that describe a model: "autoencoder" and
"unet" (fields of the modules), "condition" ({"kind": ...}), "schedule", "prediction"
and "latent_scale". A first stage alone has "autoencoder" and "latent_scale".
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ldm_jax.interop import names
from ldm_jax.interop.compvis.classifier import classifier_rows
from ldm_jax.interop.name_rows import NameRow, parameter_shapes, rows_for
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.classifier import LatentClassifier
from ldm_jax.models.clip import ClipText
from ldm_jax.models.conditioners import ClassToken, SpatialRescaler, TokenTransformer
from ldm_jax.models.unet import UNet
from ldm_jax.types import Conditioning, PyTree


class NoNames(ValueError):
    """A condition whose parameters have no names in other frameworks."""


def network_rows(spec: Mapping[str, Any]) -> dict[str, tuple[NameRow, ...]]:
    """Lists the rows of every network that has parameters; nothing is computed.

    Args:
      spec: see the module.

    Returns:
      {"autoencoder": rows, "unet": rows, "conditioner": rows}, those that there are; of
      a hybrid condition "conditioner/NAME" for each part. Of a classifier of noisy
      latents {"classifier": rows}: the autoencoder is that of the model it guides.
    """
    if "classifier" in spec:
        return {"classifier": classifier_rows(_make_classifier(spec))}
    result, known = {}, {}
    if "autoencoder" in spec:
        autoencoder = Autoencoder(**_hashable(spec["autoencoder"]))
        known = {"f": autoencoder.f}  # what a condition need not say
        if autoencoder.bottleneck != "pixels":
            result["autoencoder"] = autoencoder_rows(autoencoder)  # pyright: ignore
    if "unet" in spec:
        result["unet"] = unet_rows(make_unet(spec))  # pyright: ignore
    for network, section in condition_parts(spec.get("condition")).items():
        rows = conditioner_rows({**known, **section})
        if rows:
            result[network] = rows
    return result


def condition_parts(
    condition: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Returns {path of its parameters: section} of a condition, or of its parts.

    Args:
      condition: section of a spec; None for no condition.
    """
    if condition is None:
        return {}
    if condition["kind"] != "hybrid":
        return {"conditioner": condition}
    parts = sorted(condition["parts"].items())
    return {f"conditioner/{name}": section for name, section in parts}


def params_of(params: PyTree, network: str) -> PyTree:
    """Returns the parameters of a network by its path; {} if there are none."""
    for name in network.split("/"):
        params = params.get(name, {})
    return params


def make_unet(spec: Mapping[str, Any]) -> UNet:
    """Makes the UNet of a spec; its output is the latent's channels if not given."""
    fields = _hashable(spec["unet"])
    if "out_channels" not in fields:
        autoencoder = Autoencoder(**_hashable(spec["autoencoder"]))
        fields["out_channels"] = autoencoder.embed_channels
    return UNet(**fields)


def _make_classifier(spec: Mapping[str, Any]) -> LatentClassifier:
    """Makes the classifier of a spec, which also has "latents", with "image_size"."""
    autoencoder = Autoencoder(**_hashable(spec["autoencoder"]))
    size = spec["latents"]["image_size"]
    height, width = (size, size) if isinstance(size, int) else size
    h, _, c = autoencoder.latent_shape((height, width, autoencoder.in_channels))
    fields = {**_hashable(spec["classifier"]), "latent_size": h, "latent_channels": c}
    return LatentClassifier(**fields)


@functools.lru_cache(maxsize=4)
def autoencoder_rows(model: Autoencoder) -> tuple[NameRow, ...]:
    """Spells out the names of an autoencoder's parameters."""
    side = model.f
    image = jax.ShapeDtypeStruct((1, side, side, model.in_channels), jnp.float32)
    return rows_for(
        names.AUTOENCODER,
        parameter_shapes(model, image),
        num_levels=len(model.channel_mult),
        num_res_blocks=model.num_res_blocks,
    )


@functools.lru_cache(maxsize=4)
def unet_rows(model: UNet) -> tuple[NameRow, ...]:
    """Spells out the names of a UNet's parameters."""
    side = 2 ** (len(model.channel_mult) - 1)
    channels = model.in_channels or model.out_channels
    z_t = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.int32)
    context: Any = None
    label: Any = None
    if model.context_dim is not None:
        context = jax.ShapeDtypeStruct((1, 1, model.context_dim), jnp.float32)
    if model.num_classes is not None:
        label = t
    return rows_for(
        names.unet_table(model.transformer_depth),
        parameter_shapes(
            model, z_t, t, Conditioning(context=context, class_label=label)
        ),
        num_levels=len(model.channel_mult),
        num_res_blocks=model.num_res_blocks,
        attention_levels=tuple(model.attention_levels),
        heads=lambda width: model.num_heads or width // (model.head_channels or width),
    )


def conditioner_rows(condition: Mapping[str, Any]) -> tuple[NameRow, ...]:
    """Spells out the names of a conditioner's parameters; () if it has none.

    Raises:
      NoNames: a kind that is not of this package, or a hybrid, whose parts have names.
    """
    kind = condition["kind"]
    labels = jax.ShapeDtypeStruct((1,), jnp.int32)
    if kind in ("none", "superres", "inpaint", "retrieval"):
        return ()
    if kind == "class":
        width = condition.get("width", 512)
        if width is None:
            return ()
        classes = condition["num_classes"] + condition.get("has_null", True)
        return rows_for(
            names.CLASS_TOKEN, parameter_shapes(ClassToken(classes, width), labels)
        )
    if kind in ("text", "layout"):
        module = token_transformer(condition)
        tokens = jax.ShapeDtypeStruct((1, module.length), jnp.int32)
        is_clip = isinstance(module, ClipText)
        table = names.CLIP_TEXT if is_clip else names.TOKEN_TRANSFORMER
        return rows_for(table, parameter_shapes(module, tokens))
    if kind == "semantic":
        f, classes = condition["f"], condition["num_classes"]
        out_channels = condition.get("out_channels", 3)
        if out_channels is None:
            return ()
        bias = condition.get("use_bias", False)
        module = SpatialRescaler(f.bit_length() - 1, classes, out_channels, bias)
        label_map = jax.ShapeDtypeStruct((1, f, f), jnp.int32)
        return rows_for(names.SPATIAL_RESCALER, parameter_shapes(module, label_map))
    raise NoNames(
        f'a "{kind}" condition has no names in other frameworks, so it can be neither '
        "imported nor exported."
    )


def token_transformer(condition: Mapping[str, Any]) -> TokenTransformer | ClipText:
    """Makes the network of a "text" or "layout" condition from its fields."""
    fields = dict(condition)
    if fields["kind"] == "layout":
        defaults: dict[str, Any] = {"vocab_size": 8192, "width": 512, "depth": 16}
        defaults["length"] = 3 * fields.get("max_objects", 30) + 2
    else:
        sizes = {"bytes": 384, "bert": 30522, "clip": 49408}
        size = sizes[fields.get("tokenizer", "bytes")]
        defaults = {"vocab_size": size, "width": 512, "depth": 8, "length": 77}
    module = ClipText if fields.get("encoder") == "clip" else TokenTransformer
    known = {field.name for field in dataclasses.fields(module)} - {"parent", "name"}
    given = {name: value for name, value in fields.items() if name in known}
    return module(**defaults | given)


def _hashable(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Lists, as a config read from JSON has them, become tuples."""
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in fields.items()
    }
