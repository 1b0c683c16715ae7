# SPDX-License-Identifier: Apache-2.0
"""Translates configs of diffusers' classes to specs.

A field that is absent has diffusers' default. A field that requires something that the
modules of this package cannot do is refused by name.
"""

from collections.abc import Mapping
from typing import Any

from ldm_jax.files.errors import shown
from ldm_jax.interop.config_fields import (
    AUTOENCODER,
    CLIP_TEXT,
    TOKEN_TRANSFORMER,
    UNET,
    read_fields,
    taken,
)
from ldm_jax.interop.diffusers.config_values import (
    AUTOENCODER_VALUES,
    BERT_VALUES,
    CLIP_VALUES,
    PLAIN_UNET_VALUES,
    UNET_VALUES,
    check_config_values,
)

# field -> (diffusers' default, what our modules compute).
_AUTOENCODER = {
    "act_fn": ("silu", "silu"),
    "shift_factor": (None, None),
    "latents_mean": (None, None),
    "latents_std": (None, None),
    "use_quant_conv": (True, True),
    "use_post_quant_conv": (True, True),
    "norm_type": ("group", "group"),
    "lookup_from_codebook": (False, False),
}
_UNET = {
    "act_fn": ("silu", "silu"),
    "norm_num_groups": (32, 32),
    "center_input_sample": (False, False),
    "time_embedding_type": ("positional", "positional"),
    "time_embedding_dim": (None, None),
    "freq_shift": (0, 0),
    "flip_sin_to_cos": (True, True),
    "mid_block_scale_factor": (1, 1),
    "downsample_padding": (1, 1),
    "norm_eps": (1e-5, 1e-5),
    "class_embed_type": (None, None),
    "add_attention": (True, True),
    "only_cross_attention": (False, False),
    "encoder_hid_dim": (None, None),
    "encoder_hid_dim_type": (None, None),
    "dual_cross_attention": (False, False),
    "addition_embed_type": (None, None),
    "conv_in_kernel": (3, 3),
    "conv_out_kernel": (3, 3),
    "resnet_skip_time_act": (False, False),
    "resnet_out_scale_factor": (1.0, 1.0),
    "time_embedding_act_fn": (None, None),
    "timestep_post_act": (None, None),
    "time_cond_proj_dim": (None, None),
    "class_embeddings_concat": (False, False),
    "mid_block_only_cross_attention": (None, None),
    "cross_attention_norm": (None, None),
    "attention_type": ("default", "default"),
}


def _check(config: Mapping[str, Any], fixed) -> None:
    """Raises ValueError for a value that the modules of this package do not support."""
    name = config.get("_class_name")
    for field, (default, ours) in fixed.items():
        value = config.get(field, default)
        # A list of the one value for every level is the value.
        is_list = isinstance(value, list) and value
        if value != ours and not (is_list and all(x == ours for x in value)):
            raise ValueError(
                f"{name}.{field} must be {ours!r}, as in latent diffusion models: the "
                f"config has {shown(value)}."
            )


def _levels(config, default=()) -> dict[str, Any]:
    """Reads widths and attention of the levels; up must mirror down."""
    widths = config["block_out_channels"]
    down = config["down_block_types"]
    up = config["up_block_types"]
    if not len(widths) == len(down) == len(up):
        raise ValueError(
            "block_out_channels, down_block_types and up_block_types must have an "
            f"entry per level: got {len(widths)}, {len(down)} and {len(up)}."
        )
    if any(width % widths[0] for width in widths):
        raise ValueError(
            f"block_out_channels must be multiples of the first: got {shown(widths)}."
        )
    attends = ["Attn" in name for name in down]
    if attends != ["Attn" in name for name in reversed(up)]:
        raise ValueError(
            "up_block_types must mirror down_block_types: got "
            f"{shown(up)} and {shown(down)}."
        )
    return {
        "channels": widths[0],
        "channel_mult": tuple(width // widths[0] for width in widths),
        "attention_levels": tuple(n for n, attend in enumerate(attends) if attend),
    }


def autoencoder_spec(config: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
    """Reads the config of AutoencoderKL or VQModel.

    Returns:
      Fields of `Autoencoder`, and the latent scale.
    """
    check_config_values(config, AUTOENCODER_VALUES, config["_class_name"])
    _check(config, _AUTOENCODER)
    is_vq = config["_class_name"] == "VQModel"
    given = {"latent_channels": 3, **config} if is_vq else config
    spec = {
        **_levels(config),
        **read_fields(AUTOENCODER, "diffusers", taken(given)),
        "bottleneck": "vq" if is_vq else "kl",
    }
    if not is_vq:
        return spec, config.get("scaling_factor", 0.18215)
    spec["num_codes"] = config.get("num_vq_embeddings", 256)
    spec["embed_dim"] = config.get("vq_embed_dim") or spec["latent_channels"]
    # Configs older than the field are of the published models, whose scale is 1; the
    # class's default is the scale of another model.
    return spec, config.get("scaling_factor", 1.0)


def unet_spec(config: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the config of UNet2DModel or UNet2DConditionModel: fields of `UNet`."""
    name = config["_class_name"]
    has_condition = name == "UNet2DConditionModel"
    table = UNET_VALUES if has_condition else PLAIN_UNET_VALUES
    check_config_values(config, table, name)
    _check(config, _UNET)
    spec = {
        **_levels(config),
        **read_fields(UNET, "diffusers", taken(config)),
        "scale_shift_norm": config.get("resnet_time_scale_shift") == "scale_shift",
    }
    if has_condition:
        return spec | _condition_fields(config)
    types = {config.get("downsample_type", "conv"), config.get("upsample_type", "conv")}
    blocks = {n for n in config["down_block_types"][:-1] if "Attn" not in n}
    resnet = types == {"resnet"}
    plain = "ResnetDownsampleBlock2D" if resnet else "DownBlock2D"
    if len(types) != 1 or blocks - {plain}:
        raise ValueError(
            "UNet2DModel must resample with convolutions everywhere or with residual "
            f"blocks everywhere: got downsample_type, upsample_type {sorted(types)}, "
            f"down_block_types {sorted(blocks)}."
        )
    spec["resblock_updown"] = resnet
    # Without a number, scale and shift take the middle's attention its norm away.
    default = None if spec["scale_shift_norm"] else 32
    if (config.get("attn_norm_num_groups") or default) != 32:
        raise ValueError(
            "UNet2DModel.attn_norm_num_groups must be 32 where resnet_time_scale_shift "
            f"is scale_shift: got {config.get('attn_norm_num_groups')}."
        )
    head_channels = config.get("attention_head_dim", 8)
    heads = {"head_channels": head_channels} if head_channels else {"num_heads": 1}
    return spec | heads


def _condition_fields(config) -> dict[str, Any]:
    """Reads the fields that only UNet2DConditionModel has."""
    widths = config["block_out_channels"]
    # The number of heads, whatever the field is called.
    heads = config.get("num_attention_heads") or config.get("attention_head_dim", 8)
    heads = list(heads) if isinstance(heads, list | tuple) else [heads] * len(widths)
    if len(heads) != len(widths) or None in heads:
        raise ValueError(
            "attention_head_dim, the numbers of heads, must be a number, or one per "
            f"level of block_out_channels {shown(widths)}: got {shown(heads)}."
        )
    depths = config.get("transformer_layers_per_block", 1)
    depths = set(depths) if isinstance(depths, list | tuple) else {depths}
    sizes = {width // count for width, count in zip(widths, heads, strict=True)}
    if len(depths) != 1 or not isinstance(min(depths), int):
        raise ValueError(
            f"transformer_layers_per_block must be one number: got {depths}."
        )
    spec = {
        "transformer_depth": depths.pop(),
        "context_dim": config.get("cross_attention_dim", 1280),
    }
    if len(set(heads)) == 1:
        return spec | {"num_heads": heads[0]}
    if len(sizes) == 1:
        return spec | {"head_channels": sizes.pop()}
    raise ValueError(
        f"heads must be equally many or equally wide on all levels: got {heads} for "
        f"widths {widths}."
    )


def token_transformer_spec(config: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the config of LDMBertModel or CLIPTextModel: a "text" condition."""
    if "CLIPTextModel" in (config.get("architectures") or ()):
        check_config_values(config, CLIP_VALUES, "CLIPTextModel")
        fields = read_fields(CLIP_TEXT, "diffusers", taken(config))
        return {"kind": "text", "encoder": "clip", "tokenizer": "clip", **fields}
    check_config_values(config, BERT_VALUES, "LDMBertModel")
    fields = read_fields(TOKEN_TRANSFORMER, "diffusers", taken(config))
    if config.get("encoder_ffn_dim", 5120) != 4 * fields["width"]:
        raise ValueError(
            f"LDMBertModel.encoder_ffn_dim must be 4 * d_model: got "
            f"{config.get('encoder_ffn_dim')} for d_model={fields['width']}."
        )
    return {"kind": "text", "tokenizer": "bert", **fields}
