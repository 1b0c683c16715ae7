# SPDX-License-Identifier: Apache-2.0
"""Translates CompVis's conditioning stages to conditions of this package."""

from collections.abc import Mapping
from typing import Any

from ldm_jax.configs import open_images
from ldm_jax.files.errors import shown
from ldm_jax.interop.config_fields import (
    CLIP_TEXT,
    TOKEN_TRANSFORMER,
    check_value,
    read_fields,
    taken,
)

# Fields of the original's classes that no table of `config_fields` has -> their types.
_KINDS = {
    "n_classes": int | None,
    "embed_dim": int | None,
    "method": str | None,
    "multiplier": float | None,
    "in_channels": int | None,
    "n_stages": int | None,
    "out_channels": int | None,
    "bias": bool | None,
    "use_tokenizer": bool | None,
}


def condition_from_compvis(
    section,
    key: str,
    conditioning_key: str | None,
    autoencoder: Mapping[str, Any],
    num_classes: int | None = None,
    context_dim: int | None = None,
) -> dict[str, Any]:
    """Translates a conditioning stage.

    Args:
      section: cond_stage_config.
      key: cond_stage_key, which distinguishes texts from boxes.
      conditioning_key: "concat", "crossattn", "adm" or None.
      autoencoder: fields of the first stage.
      num_classes: those whose embedding the UNet adds to time ("adm").
      context_dim: width of the context that the UNet reads.

    Returns:
      The "condition" section of a spec.

    Raises:
      ValueError: a class that is not supported.
    """
    if conditioning_key == "adm":
        if num_classes is None:
            raise ValueError(
                'conditioning_key "adm" needs unet_config.params.num_classes: got '
                "none; add it to the config."
            )
        return _classes(num_classes, None)
    if section == "__is_unconditional__":
        return {"kind": "none"}
    if section == "__is_first_stage__":
        return {"kind": "inpaint", "autoencoder": autoencoder}
    check_value("cond_stage_config", section, Mapping)
    target, fields = section.get("target"), section.get("params") or {}
    check_value("cond_stage_config.target", target, str)
    check_value("cond_stage_config.params", fields, Mapping)
    for field, kind in _KINDS.items():
        check_value(f"cond_stage_config.params.{field}", fields.get(field), kind)
    name = target.rsplit(".", 1)[-1]
    if name == "ClassEmbedder":
        return _classes(fields.get("n_classes", 1000), fields["embed_dim"])
    if name in ("BERTEmbedder", "TransformerEmbedder"):
        return _token_condition(fields, key, name == "BERTEmbedder")
    if name == "SpatialRescaler":
        return _rescaled(fields)
    if name == "Identity" and key == "LR_image":
        return {"kind": "superres"}
    if name == "FrozenCLIPEmbedder":  # the text tower of ViT-L/14
        read = read_fields(
            CLIP_TEXT, "compvis", taken(fields), "cond_stage_config.params"
        )
        sizes = {"width": 768, "depth": 12, **read}
        return {"kind": "text", "encoder": "clip", "tokenizer": "clip", **sizes}
    if name in ("FrozenCLIPTextEmbedder", "Identity"):
        if context_dim is None:
            return {"kind": "none"}
        return {"kind": "retrieval", "width": context_dim}
    raise ValueError(
        f"cond_stage_config.target must be a class of the published models: got "
        f"{shown(target)}, which is not supported."
    )


def _classes(rows: int, width: int | None) -> dict[str, Any]:
    """Translates a table of classes; 1001 are ImageNet's and one for "any"."""
    has_null = rows == 1001  # cin256-v2
    return {
        "kind": "class",
        "num_classes": rows - has_null,
        "width": width,
        "has_null": has_null,
    }


def _rescaled(fields) -> dict[str, Any]:
    """Translates the fields of SpatialRescaler."""
    how = fields.get("method", "bilinear"), fields.get("multiplier", 0.5)
    if how not in (("bilinear", 0.5), ("area", 0.5)):  # the same, when halving
        raise ValueError(
            f"SpatialRescaler must halve by means (bilinear, 0.5): got {how}."
        )
    condition = {
        "kind": "semantic",
        "num_classes": fields.get("in_channels", 3),
        "f": 2 ** fields.get("n_stages", 1),
        "out_channels": fields.get("out_channels"),
    }
    return condition | ({"use_bias": True} if fields.get("bias") else {})


def _layout(num_ids: int) -> dict[str, Any]:
    """Returns the classes of the released layout models.

    The original files lack them, and no shape depends on them. A vocabulary too small
    for the classes and their attributes is of no published model: it has numbers only.
    """
    if num_ids <= 16 * open_images.NUM_IDS:
        return {"kind": "layout", "num_classes": min(600, num_ids - 1)}
    return {
        "kind": "layout",
        "num_classes": open_images.NUM_IDS,
        "has_attributes": True,
        "class_names": open_images.NAMES,
    }


def _token_condition(fields, key: str, has_tokenizer: bool) -> dict[str, Any]:
    """Translates the fields of BERTEmbedder: texts, or boxes as tokens."""
    sizes = read_fields(
        TOKEN_TRANSFORMER, "compvis", taken(fields), "cond_stage_config.params"
    )
    if key == "coordinates_bbox":
        max_objects = (sizes.pop("length") - 2) // 3
        return {**_layout(sizes["vocab_size"]), "max_objects": max_objects, **sizes}
    has_tokenizer = has_tokenizer and fields.get("use_tokenizer", True)
    # "bert" needs its vocab.txt: set condition.vocab to use texts.
    tokenizer = "bert" if has_tokenizer else "bytes"
    return {"kind": "text", "tokenizer": tokenizer, **sizes}
