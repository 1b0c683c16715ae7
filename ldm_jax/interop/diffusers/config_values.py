# SPDX-License-Identifier: Apache-2.0
"""Checks types and ranges of the values in configs of diffusers, before any is used.

A config may come with an untrusted model, or be edited by hand.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ldm_jax.diffusion.schedule import MAX_TIMESTEPS
from ldm_jax.files.errors import shown
from ldm_jax.files.value_types import MAX_FLOAT32, MIN_FLOAT32
from ldm_jax.interop.config_fields import check_value
from ldm_jax.models import bounds

# Sides of images and of latents, and ids of texts.
MAX_SIDE, MAX_IDS = 2**16, 2**24


class Values(NamedTuple):
    """The values that a field may have.

    Attributes:
      kind: a type as `check_type` has them.
      low, high: the range of numbers, and of each number of a list; None: any.
      choices: all values; () for any.
      is_required: whether a config must have the field.
    """

    kind: Any
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    is_required: bool = False


def _count(high: float, low: int = 1, *, is_required: bool = False) -> Values:
    return Values(int if is_required else int | None, low, high, (), is_required)


def _counts(high: float) -> Values:
    return Values(int | tuple[int, ...] | None, 1, high)


_LEVELS = {
    "block_out_channels": Values(
        tuple[int, ...], 1, bounds.MAX_CHANNELS, is_required=True
    ),
    "down_block_types": Values(tuple[str, ...], is_required=True),
    "up_block_types": Values(tuple[str, ...], is_required=True),
    "layers_per_block": _count(bounds.MAX_BLOCKS),
    "sample_size": _counts(MAX_SIDE),
}
AUTOENCODER_VALUES = {
    **_LEVELS,
    "in_channels": _count(bounds.MAX_CHANNELS),
    "out_channels": _count(bounds.MAX_CHANNELS),
    "latent_channels": _count(bounds.MAX_CHANNELS),
    "norm_num_groups": _count(bounds.MAX_CHANNELS),
    "num_vq_embeddings": Values(int, 1, bounds.MAX_CODES),
    "vq_embed_dim": _count(bounds.MAX_CHANNELS),
    "mid_block_add_attention": Values(bool | None),
    "scaling_factor": Values(float, MIN_FLOAT32, MAX_FLOAT32),
}
UNET_VALUES = {
    **_LEVELS,
    "in_channels": _count(bounds.MAX_CHANNELS, is_required=True),
    "out_channels": _count(bounds.MAX_CHANNELS, is_required=True),
    "num_class_embeds": _count(bounds.MAX_CLASSES),
    "dropout": Values(float | None, 0, bounds.MAX_DROPOUT),
    "attention_head_dim": _counts(bounds.MAX_CHANNELS),
    "num_attention_heads": _counts(bounds.MAX_CHANNELS),
    "attn_norm_num_groups": _count(bounds.MAX_CHANNELS),
    "cross_attention_dim": _count(bounds.MAX_CHANNELS),
    "transformer_layers_per_block": _counts(bounds.MAX_DEPTH),
    "downsample_type": Values(str, choices=("conv", "resnet")),
    "upsample_type": Values(str, choices=("conv", "resnet")),
    "resnet_time_scale_shift": Values(str, choices=("default", "scale_shift")),
}
# UNet2DModel has the same width of heads on all levels.
PLAIN_UNET_VALUES = {**UNET_VALUES, "attention_head_dim": _count(bounds.MAX_CHANNELS)}
_TEXT = {
    "vocab_size": _count(MAX_IDS),
    "max_position_embeddings": _count(MAX_SIDE),
}
BERT_VALUES = {
    **_TEXT,
    "d_model": _count(bounds.MAX_CHANNELS, is_required=True),
    "encoder_layers": _count(bounds.MAX_DEPTH, 0),
    "encoder_attention_heads": _count(bounds.MAX_CHANNELS),
    "encoder_ffn_dim": _count(4 * bounds.MAX_CHANNELS),
    "head_dim": _count(bounds.MAX_CHANNELS),
}
CLIP_VALUES = {
    **_TEXT,
    "hidden_size": _count(bounds.MAX_CHANNELS),
    "num_hidden_layers": _count(bounds.MAX_DEPTH, 0),
    "num_attention_heads": _count(bounds.MAX_CHANNELS),
    "intermediate_size": _count(bounds.MAX_CHANNELS),
    "hidden_act": Values(str | None),
}
_BETA = Values(float, MIN_FLOAT32, 1)
SCHEDULER_VALUES = {
    "_class_name": Values(str | None),
    "num_train_timesteps": Values(int, 1, MAX_TIMESTEPS),
    "beta_start": _BETA,
    "beta_end": _BETA,
    "beta_schedule": Values(str),
    "trained_betas": Values(tuple[float, ...] | None, MIN_FLOAT32, 1),
    "prediction_type": Values(str),
    "rescale_betas_zero_snr": Values(bool | None),
    "clip_sample": Values(bool | None),
    "clip_sample_range": Values(float, MIN_FLOAT32, MAX_FLOAT32),
    "thresholding": Values(bool | None),
    "sample_max_value": Values(float, MIN_FLOAT32, MAX_FLOAT32),
    "dynamic_thresholding_ratio": Values(float, MIN_FLOAT32, 1),
    "timestep_spacing": Values(str),
    "steps_offset": Values(int, 0, MAX_TIMESTEPS),
    "set_alpha_to_one": Values(bool | None),
    "variance_type": Values(str | None),
    "algorithm_type": Values(str),
    "final_sigmas_type": Values(str | None),
    "use_flow_sigmas": Values(bool | None),
}


def check_config_values(
    config: Mapping[str, Any], table: Mapping[str, Values], name: str = ""
) -> None:
    """Checks the values of the fields of a table that a config has.

    Args:
      config: of a class of diffusers.
      table: {field: its values}.
      name: of the class, for errors.

    Raises:
      ValueError: a field is missing, or its value is of another type or out of range;
        names the field.
    """
    for field, values in table.items():
        where = f"{name}.{field}".lstrip(".")
        if field in config:
            _check_values(where, config[field], values)
        elif values.is_required:
            raise ValueError(f"{where} is missing; get the whole config again.")


def _check_values(where: str, value: Any, values: Values) -> None:
    check_value(where, value, values.kind)
    if values.choices and value not in values.choices:
        raise ValueError(
            f"{where} must be one of {', '.join(values.choices)}: got {shown(value)}; "
            "others are not supported."
        )
    if values.low is None or values.high is None or value is None:
        return
    numbers = value if isinstance(value, Sequence) else (value,)
    if not numbers or not all(values.low <= n <= values.high for n in numbers):
        raise ValueError(
            f"{where} must be in {values.low:g}..{values.high:g}: got {shown(value)}; "
            "correct the config."
        )
