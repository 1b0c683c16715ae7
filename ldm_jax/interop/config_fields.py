# SPDX-License-Identifier: Apache-2.0
"""Tables of settings that differ from other frameworks only by name.

A row lists for one field of a module of this package its name and default in CompVis's
and in diffusers' configs; import and export read it in opposite directions. Functions
of `read_config` and `write_config` translate two other kinds of field: those that mean
something else there, such as levels of attention or numbers of heads, and those that
exist only for certain values of another field, such as the ends of a noise schedule.
"""

import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn

from ldm_jax.files.value_types import check_type
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.clip import ClipText
from ldm_jax.models.conditioners import TokenTransformer
from ldm_jax.models.unet import UNet


class Other(NamedTuple):
    """A field of another framework.

    Attributes:
      name: of the field.
      default: value of configs that leave it out; REQUIRED where they may not.
    """

    name: str
    default: Any


class FieldRow(NamedTuple):
    """One field: our name, and another framework's where its name differs."""

    ours: str
    compvis: Other | None
    diffusers: Other | None


REQUIRED = object()

AUTOENCODER = (
    FieldRow("channels", Other("ch", REQUIRED), None),
    FieldRow("channel_mult", Other("ch_mult", (1, 2, 4, 8)), None),
    FieldRow(
        "num_res_blocks", Other("num_res_blocks", 2), Other("layers_per_block", 1)
    ),
    # 3 in VQModel: see its reader.
    FieldRow(
        "latent_channels", Other("z_channels", REQUIRED), Other("latent_channels", 4)
    ),
    FieldRow("in_channels", Other("in_channels", 3), Other("in_channels", 3)),
    FieldRow("out_channels", Other("out_ch", 3), Other("out_channels", 3)),
    FieldRow("dropout", Other("dropout", 0.0), None),
    FieldRow("tanh_out", Other("tanh_out", False), None),
    FieldRow("mid_attention", None, Other("mid_block_add_attention", True)),
    FieldRow("num_groups", None, Other("norm_num_groups", 32)),
)
UNET = (
    FieldRow("channels", Other("model_channels", REQUIRED), None),
    FieldRow("channel_mult", Other("channel_mult", (1, 2, 4, 8)), None),
    FieldRow(
        "in_channels", Other("in_channels", REQUIRED), Other("in_channels", REQUIRED)
    ),
    FieldRow(
        "out_channels", Other("out_channels", REQUIRED), Other("out_channels", REQUIRED)
    ),
    FieldRow(
        "num_res_blocks", Other("num_res_blocks", 2), Other("layers_per_block", 2)
    ),
    FieldRow("scale_shift_norm", Other("use_scale_shift_norm", False), None),
    FieldRow("resblock_updown", Other("resblock_updown", False), None),
    FieldRow("conv_resample", Other("conv_resample", True), None),
    FieldRow("dropout", Other("dropout", 0.0), Other("dropout", 0.0)),
    FieldRow(
        "num_classes", Other("num_classes", None), Other("num_class_embeds", None)
    ),
)
# BERTEmbedder, and LDMBertModel.
TOKEN_TRANSFORMER = (
    FieldRow("width", Other("n_embed", REQUIRED), Other("d_model", REQUIRED)),
    FieldRow("depth", Other("n_layer", REQUIRED), Other("encoder_layers", 32)),
    FieldRow("vocab_size", Other("vocab_size", 30522), Other("vocab_size", 30522)),
    FieldRow("length", Other("max_seq_len", 77), Other("max_position_embeddings", 77)),
    FieldRow("num_heads", None, Other("encoder_attention_heads", 8)),
    FieldRow("head_channels", None, Other("head_dim", 64)),
)
# CLIPTextModel; the original's FrozenCLIPEmbedder is always the one of ViT-L/14.
CLIP_TEXT = (
    FieldRow("width", None, Other("hidden_size", 512)),
    FieldRow("depth", None, Other("num_hidden_layers", 12)),
    FieldRow("num_heads", None, Other("num_attention_heads", 8)),
    FieldRow("mlp_width", None, Other("intermediate_size", 2048)),
    FieldRow("activation", None, Other("hidden_act", "quick_gelu")),
    FieldRow("vocab_size", None, Other("vocab_size", 49408)),
    FieldRow("length", Other("max_length", 77), Other("max_position_embeddings", 77)),
)
# Whose fields have the types of the rows.
_MODULES: Mapping[tuple[FieldRow, ...], type[nn.Module]] = {
    AUTOENCODER: Autoencoder,
    UNET: UNet,
    TOKEN_TRANSFORMER: TokenTransformer,
    CLIP_TEXT: ClipText,
}


def read_fields(
    table: tuple[FieldRow, ...],
    form: str,
    take: Callable[[str, Any], Any],
    where: str = "",
) -> dict[str, Any]:
    """Reads the fields of our module from a config.

    Args:
      table: `AUTOENCODER`, `UNET`, `TOKEN_TRANSFORMER` or `CLIP_TEXT`.
      form: "compvis" or "diffusers".
      take: (name, default) -> value; default is REQUIRED where there is none.
      where: the section of the config, for errors.

    Returns:
      {our name: value}; numbers and flags have the type of their default, and a value
      of None is left out.

    Raises:
      ValueError: a value has another type than the field of our module.
    """
    fields = {}
    types = typing.get_type_hints(_MODULES[table])
    for row in table:
        other = getattr(row, form)
        if other is None:
            continue
        value = take(other.name, other.default)
        check_value(f"{where}.{other.name}".lstrip("."), value, types[row.ours] | None)
        if isinstance(other.default, bool):
            value = bool(value)
        elif value is None:
            continue
        elif isinstance(other.default, float):
            value = float(value)
        fields[row.ours] = value
    return fields


def check_value(name: str, value: Any, annotation: Any) -> None:
    """Raises ValueError for a value of a config that is of another type."""
    check_type(name, value, annotation, "correct the config")


def taken(config: Mapping[str, Any]) -> Callable[[str, Any], Any]:
    """Returns the `take` of `read_fields` for a mapping; REQUIRED is a KeyError."""

    def take(name: str, default: Any) -> Any:
        return config[name] if default is REQUIRED else config.get(name, default)

    return take


def write_fields(
    table: tuple[FieldRow, ...], form: str, module: nn.Module
) -> dict[str, Any]:
    """Writes the fields of a module under the names of a config; tuples as lists."""
    fields = {}
    for row in table:
        other = getattr(row, form)
        if other is not None:
            value = getattr(module, row.ours)
            fields[other.name] = list(value) if isinstance(value, tuple) else value
    return fields
