# SPDX-License-Identifier: Apache-2.0
"""Checks the options of an Autoencoder before any of its layers is made."""

from typing import Any

from ldm_jax.models import bounds
from ldm_jax.models.bounds import check_bounds
from ldm_jax.models.first_stage.bottleneck import BOTTLENECKS
from ldm_jax.models.first_stage.coders import ATTENTION
from ldm_jax.models.layers import REMAT_POLICIES


def check_autoencoder(model: Any) -> None:
    """Raises ValueError for options that are out of range or contradict each other.

    Args:
      model: an `Autoencoder`.
    """
    check_bounds(
        model,
        in_channels=bounds.MAX_CHANNELS,
        out_channels=bounds.MAX_CHANNELS,
        latent_channels=bounds.MAX_CHANNELS,
        channels=bounds.MAX_CHANNELS,
        channel_mult=bounds.MAX_CHANNELS,
        num_res_blocks=bounds.MAX_BLOCKS,
        num_codes=bounds.MAX_CODES,
        dropout=bounds.MAX_DROPOUT,
    )
    choices = (
        ("bottleneck", BOTTLENECKS),
        ("attn_type", ATTENTION),
        ("remat", REMAT_POLICIES),
    )
    for name, known in choices:
        value = getattr(model, name)
        if value not in known:
            raise ValueError(
                f'unknown {name} "{value}"; one of: {", ".join(sorted(known))}.'
            )
    levels = len(model.channel_mult)
    if any(not 0 <= level < levels for level in model.attention_levels):
        raise ValueError(
            f"attention_levels must be in [0, {levels - 1}], one per entry of "
            f"channel_mult={tuple(model.channel_mult)}: got "
            f"{tuple(model.attention_levels)}; 0 is the finest level."
        )
    widths = [model.channels * mult for mult in model.channel_mult]
    if model.num_groups < 1 or any(width % model.num_groups for width in widths):
        raise ValueError(
            f"the widths {widths} of the levels (channels={model.channels} times "
            f"channel_mult) must be multiples of num_groups: got {model.num_groups}; "
            "use a number that divides them all, or other channels."
        )
    if (model.bottleneck == "vq") != (model.num_codes is not None):
        raise ValueError(
            'num_codes must be given for bottleneck="vq" and only there: got '
            f'bottleneck="{model.bottleneck}", num_codes={model.num_codes}.'
        )
    bound = model.code_range
    if bound is not None and (model.bottleneck != "vq" or bound <= 0):
        raise ValueError(
            'code_range must be positive, and given only for bottleneck="vq": got '
            f'{bound} for "{model.bottleneck}"; leave it out for 1 / num_codes.'
        )
    if model.bottleneck == "pixels" and model.in_channels != model.out_channels:
        raise ValueError(
            'bottleneck="pixels" returns its input image: got in_channels='
            f"{model.in_channels}, out_channels={model.out_channels}; make them equal."
        )
