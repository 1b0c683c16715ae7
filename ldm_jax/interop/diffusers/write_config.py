# SPDX-License-Identifier: Apache-2.0
"""Translates models of this package to configs of diffusers' classes."""

from typing import Any

from ldm_jax.interop.cannot_express import CannotExpress
from ldm_jax.interop.config_fields import (
    AUTOENCODER,
    CLIP_TEXT,
    TOKEN_TRANSFORMER,
    UNET,
    write_fields,
)
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.clip import ClipText
from ldm_jax.models.conditioners import TokenTransformer
from ldm_jax.models.unet import UNet

# The oldest release whose classes take all of the fields written here.
VERSION = "0.33.0"


def autoencoder_config(
    model: Autoencoder, latent_scale: float, image_size: int = 256
) -> dict[str, Any]:
    """Describes an autoencoder as AutoencoderKL or VQModel, attention levels included.

    Raises:
      CannotExpress: the class has no option for something the model does.
    """
    if model.attn_type != "vanilla" or model.tanh_out:
        raise CannotExpress(
            "diffusers' autoencoders have neither linear attention nor tanh at the "
            f"end: this one has attn_type={model.attn_type!r}, "
            f"tanh_out={model.tanh_out}."
        )
    levels = range(len(model.channel_mult))
    attends = [level in model.attention_levels for level in levels]
    down = ["AttnDownEncoderBlock2D" if a else "DownEncoderBlock2D" for a in attends]
    up = [
        "AttnUpDecoderBlock2D" if a else "UpDecoderBlock2D" for a in reversed(attends)
    ]
    config = {
        **write_fields(AUTOENCODER, "diffusers", model),
        "down_block_types": down,
        "up_block_types": up,
        "block_out_channels": [model.channels * mult for mult in model.channel_mult],
        "act_fn": "silu",
        "sample_size": image_size,
        # 1.0 for the published VQ models, which is not VQModel's default.
        "scaling_factor": latent_scale,
    }
    if model.bottleneck == "vq":
        return {
            **versioned({"_class_name": "VQModel"}),
            **config,
            "num_vq_embeddings": model.num_codes,
            "vq_embed_dim": model.embed_channels,
            "norm_type": "group",
        }
    if model.embed_channels != model.latent_channels:
        raise CannotExpress(
            "AutoencoderKL has as many latent channels as its encoder puts out: this "
            f"model has embed_dim={model.embed_channels}, "
            f"latent_channels={model.latent_channels}."
        )
    return {**versioned({"_class_name": "AutoencoderKL"}), **config}


def unet_config(model: UNet, sample_size: int) -> dict[str, Any]:
    """Describes a UNet as UNet2DModel, or UNet2DConditionModel with transformer blocks.

    Raises:
      CannotExpress: the class has no option for something the model does.
    """
    if not model.conv_resample:
        raise CannotExpress(
            "diffusers' UNets resample with convolutions or residual blocks: this one "
            "has conv_resample=False."
        )
    widths = [model.channels * mult for mult in model.channel_mult]
    config = {
        **write_fields(UNET, "diffusers", model),
        "sample_size": sample_size,
        "in_channels": model.in_channels or model.out_channels,
        "center_input_sample": False,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "block_out_channels": widths,
        "downsample_padding": 1,
        "mid_block_scale_factor": 1,
        "act_fn": "silu",
        "norm_num_groups": 32,
        "norm_eps": 1e-5,
        "resnet_time_scale_shift": "scale_shift"
        if model.scale_shift_norm
        else "default",
    }
    if model.transformer_depth:
        return _condition_model(model, config, widths)
    return _plain_model(model, config, widths)


def _plain_model(model: UNet, config, widths) -> dict[str, Any]:
    """Completes the config of UNet2DModel."""
    attending = {widths[level] for level in model.attention_levels} | {widths[-1]}
    head_channels = model.head_channels
    if model.num_heads and model.num_heads > 1:
        sizes = {width // model.num_heads for width in attending}
        if len(sizes) > 1:
            raise CannotExpress(
                f"UNet2DModel has one width of heads for all levels: this model has "
                f"{model.num_heads} heads everywhere, {sorted(sizes)} wide, which it "
                "cannot express."
            )
        (head_channels,) = sizes
    resnet = model.resblock_updown
    plain_down, plain_up = (
        ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")
        if resnet
        else ("DownBlock2D", "UpBlock2D")
    )
    attends = [level in model.attention_levels for level in range(len(widths))]
    return {
        **versioned({"_class_name": "UNet2DModel"}),
        **config,
        "time_embedding_type": "positional",
        "down_block_types": ["AttnDownBlock2D" if a else plain_down for a in attends],
        "up_block_types": [
            "AttnUpBlock2D" if a else plain_up for a in reversed(attends)
        ],
        "downsample_type": "resnet" if resnet else "conv",
        "upsample_type": "resnet" if resnet else "conv",
        # None: one head as wide as the level.
        "attention_head_dim": head_channels,
        "add_attention": True,
        # Else scale_shift takes the norm away from the middle's attention.
        "attn_norm_num_groups": 32,
    }


def _condition_model(model: UNet, config, widths) -> dict[str, Any]:
    """Completes the config of UNet2DConditionModel."""
    if model.resblock_updown or model.context_dim is None:
        raise CannotExpress(
            "UNet2DConditionModel resamples with convolutions and attends to a "
            f"context: this model has resblock_updown={model.resblock_updown}, "
            f"context_dim={model.context_dim}."
        )
    attends = [level in model.attention_levels for level in range(len(widths))]
    return {
        **versioned({"_class_name": "UNet2DConditionModel"}),
        **config,
        "down_block_types": [
            "CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends
        ],
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": [
            "CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)
        ],
        "cross_attention_dim": model.context_dim,
        "transformer_layers_per_block": model.transformer_depth,
        # The number of heads, whatever the field is called.
        "attention_head_dim": [
            model.num_heads or width // model.head_channels for width in widths
        ],
        "use_linear_projection": False,
    }


def token_transformer_config(model: TokenTransformer | ClipText) -> dict[str, Any]:
    """Describes a text encoder as LDMBertModel or CLIPTextModel."""
    if isinstance(model, ClipText):
        if model.pooled is not None:
            raise CannotExpress("CLIPTextModel gives all tokens: this model is pooled.")
        return {
            "architectures": ["CLIPTextModel"],
            "model_type": "clip_text_model",
            **write_fields(CLIP_TEXT, "diffusers", model),
            "intermediate_size": model.mlp_width or 4 * model.width,
            "projection_dim": model.width,
        }
    return {
        "architectures": ["LDMBertModel"],
        "model_type": "ldmbert",
        **write_fields(TOKEN_TRANSFORMER, "diffusers", model),
        "encoder_ffn_dim": 4 * model.width,
        "activation_function": "gelu",
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "pad_token_id": 0,
    }


def versioned(config: dict[str, Any]) -> dict[str, Any]:
    """Adds the version of diffusers that a config is written for."""
    return {
        "_class_name": config["_class_name"],
        "_diffusers_version": VERSION,
        **config,
    }
