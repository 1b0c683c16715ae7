# SPDX-License-Identifier: Apache-2.0
"""The denoising network eps_theta(z_t, t, y).

Residual blocks at several resolutions, with attention at some of them. The output of
every block on the downward path is also an input of its mirror image on the upward
path.

Source: Rombach et al. 2022, Tab. 12-15; Dhariwal & Nichol 2021, App. A.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float, Float32, Int, Real

from ldm_jax.models import bounds
from ldm_jax.models.blocks import UNetBlocks, timestep_embedding
from ldm_jax.models.bounds import check_bounds
from ldm_jax.models.layers import REMAT_POLICIES, Conv, Dense, GroupNorm
from ldm_jax.models.levels import Down, Middle, Skips, Up
from ldm_jax.types import Array, Conditioning, DType


class UNet(nn.Module):
    """Predicts noise (or x0, or v) from a noisy latent, a step and a condition.

    Attributes:
      channels: width of the finest level; a multiple of 32.
      channel_mult: width of each level in units of `channels`; level l works on
        h / 2^l x w / 2^l.
      out_channels: latent channels c.
      in_channels: c, plus the channels of `Conditioning.concat`; None means c.
      num_res_blocks: residual blocks per level of the downward path; the upward path
        has one more.
      attention_levels: levels with attention, 0 is the finest; the middle has it too.
      num_heads: heads of every attention. Set this or `head_channels`.
      head_channels: width of a head; the number of heads follows.
      transformer_depth: 0 for plain self-attention, n for n transformer blocks.
      context_dim: width d of `Conditioning.context`; None if there is none.
      num_classes: classes of `Conditioning.class_label`, whose embedding is added to
        that of time; None if there are none.
      scale_shift_norm: the time embedding scales and shifts norms instead of being
        added.
      resblock_updown: resample in residual blocks instead of convolutions.
      conv_resample: resample with convolutions; otherwise by mean and repetition.
      dropout: probability in residual blocks and in the MLPs of transformers.
      dtype: dtype of the arithmetic; parameters, norms, softmax and output are float32.
      remat: what is recomputed in the backward pass; a key of `REMAT_POLICIES`.
      attention_backend: see `attend`.

    Raises:
      ValueError: fields that contradict each other.
    """

    channels: int
    channel_mult: tuple[int, ...]
    out_channels: int
    in_channels: int | None = None
    num_res_blocks: int = 2
    attention_levels: tuple[int, ...] = ()
    num_heads: int | None = None
    head_channels: int | None = None
    transformer_depth: int = 0
    context_dim: int | None = None
    num_classes: int | None = None
    scale_shift_norm: bool = False
    resblock_updown: bool = False
    conv_resample: bool = True
    dropout: float = 0.0
    dtype: DType = jnp.float32
    remat: str = "none"
    attention_backend: str = "auto"

    def __post_init__(self):
        _check_fields(self)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        z_t: Float[Array, "B h w c"],
        t: Real[Array, " B"],
        cond: Conditioning = Conditioning(),
        is_training: bool = False,
    ) -> Float32[Array, "B h w {self.out_channels}"]:
        """Predicts the noise in z_t.

        Args:
          z_t: noisy latents; h and w are multiples of 2^(levels - 1).
          t: steps in [0, T).
          cond: the entries that the fields require: context [B, M, context_dim], concat
            [B, h, w, in_channels - c], class_label [B] int32 in [0, num_classes).
          is_training: whether dropout is on; then apply with rngs={"dropout": key}.

        Raises:
          ValueError: shapes that do not fit, or entries of `cond` that are missing or
            not used.
        """
        _check_inputs(self, z_t, t, cond)
        blocks = make_blocks(self, is_training)
        time = self.embed(t, cond.class_label)
        context = None if cond.context is None else cond.context.astype(self.dtype)
        x = z_t if cond.concat is None else jnp.concatenate([z_t, cond.concat], -1)

        x, skips = downward_path(self, blocks, x, time, context)
        x = Middle(blocks, name="mid")(x, time, context)
        x = upward_path(self, blocks, x, time, context, skips)
        x = nn.silu(GroupNorm(eps=1e-5, name="norm_out")(x)).astype(jnp.float32)
        return Conv(self.out_channels, zero_init=True, name="conv_out")(x)

    def embed(
        self, t: Real[Array, " B"], class_label: Int[Array, " B"] | None
    ) -> Float[Array, "B 4*{self.channels}"]:
        """Embeds steps and classes, in one vector per sample, activated."""
        time = embed_steps(t, self.channels)
        if class_label is not None:
            assert self.num_classes is not None  # `_check_inputs`
            table = nn.Embed(
                self.num_classes,
                time.shape[-1],
                embedding_init=nn.initializers.normal(1.0),
                name="label_embedding",
            )
            time = time + table(class_label)
        return nn.silu(time).astype(self.dtype)


def make_blocks(network: nn.Module, is_training: bool) -> UNetBlocks:
    """Makes blocks with the values of a network's fields of the same names."""
    names = [field.name for field in dataclasses.fields(UNetBlocks)]
    options = {name: getattr(network, name) for name in names if name != "is_training"}
    return UNetBlocks(**options, is_training=is_training)


def level_fields(network: nn.Module, level: int) -> dict[str, Any]:
    """Returns the fields of `Down` and `Up` that depend on the level only."""
    return dict(
        features=network.channels * network.channel_mult[level],
        has_attention=level in network.attention_levels,
    )


def embed_steps(t: Real[Array, " B"], channels: int) -> Float[Array, "B 4*{channels}"]:
    """Embeds steps in the scope of the caller, not activated."""
    width = 4 * channels
    time = Dense(width, name="time_dense_0")(timestep_embedding(t, channels))
    return Dense(width, name="time_dense_1")(nn.silu(time))


def downward_path(
    network: nn.Module,
    blocks: UNetBlocks,
    x: Float[Array, "B h w C"],
    time: Float[Array, "B E"],
    context: Float[Array, "B M d"] | None,
) -> tuple[Float[Array, "B _ _ features"], Skips]:
    """Applies the first convolution and levels 0, 1, ..., in the caller's scope.

    Returns:
      The coarsest features, and the outputs of every block.
    """
    x = Conv(network.channels, dtype=network.dtype, name="conv_in")(x)
    skips = [x]
    for level in range(len(network.channel_mult)):
        x, new = Down(
            blocks,
            num_blocks=network.num_res_blocks,
            is_last=level == len(network.channel_mult) - 1,
            **level_fields(network, level),
            name=f"down_{level}",
        )(x, time, context)
        skips += new
    return x, skips


def upward_path(
    network: nn.Module,
    blocks: UNetBlocks,
    x: Float[Array, "B _ _ features"],
    time: Float[Array, "B E"],
    context: Float[Array, "B M d"] | None,
    skips: Skips,
) -> Float[Array, "B h w C"]:
    """Applies levels ..., 1, 0 in the caller's scope: the mirror of `downward_path`.

    Every block concatenates its input with one entry from the end of `skips`.
    """
    for level in reversed(range(len(network.channel_mult))):
        x = Up(
            blocks,
            num_blocks=network.num_res_blocks + 1,
            is_last=level == 0,
            **level_fields(network, level),
            name=f"up_{level}",
        )(x, time, context, skips)
    return x


def _check_fields(unet: UNet) -> None:
    """Raises ValueError when the fields of a UNet contradict each other."""
    check_bounds(
        unet,
        in_channels=bounds.MAX_CHANNELS,
        out_channels=bounds.MAX_CHANNELS,
        channels=bounds.MAX_CHANNELS,
        channel_mult=bounds.MAX_CHANNELS,
        num_res_blocks=bounds.MAX_BLOCKS,
        transformer_depth=bounds.MAX_DEPTH,
        num_heads=bounds.MAX_CHANNELS,
        head_channels=bounds.MAX_CHANNELS,
        context_dim=bounds.MAX_CHANNELS,
        num_classes=bounds.MAX_CLASSES,
        dropout=bounds.MAX_DROPOUT,
    )
    levels = len(unet.channel_mult)
    if (unet.num_heads is None) == (unet.head_channels is None):
        raise ValueError(
            "UNet takes exactly one of num_heads and head_channels: got "
            f"num_heads={unet.num_heads}, head_channels={unet.head_channels}; set one "
            "of them and leave the other at None."
        )
    heads = unet.head_channels if unet.num_heads is None else unet.num_heads
    assert heads is not None  # one of the two is set
    if heads < 1 or levels < 1:
        raise ValueError(
            "UNet needs at least one head of one channel and one level in "
            f"channel_mult: got num_heads={unet.num_heads}, head_channels="
            f"{unet.head_channels}, channel_mult={tuple(unet.channel_mult)}."
        )
    if not set(unet.attention_levels) <= set(range(levels)):
        raise ValueError(
            f"UNet.attention_levels must be in 0..{levels - 1} (0 is the finest of "
            f"the levels in channel_mult): got {tuple(unet.attention_levels)}; leave "
            "the others out, or add levels to channel_mult."
        )
    if unet.context_dim is not None and not unet.transformer_depth:
        raise ValueError(
            f"UNet.context_dim={unet.context_dim} needs cross-attention: set "
            "transformer_depth to 1 or more, or context_dim to None."
        )
    if unet.remat not in REMAT_POLICIES:
        raise ValueError(
            f'unknown UNet.remat "{unet.remat}"; one of: '
            f"{', '.join(sorted(REMAT_POLICIES))}."
        )
    if unet.channels % 32:
        raise ValueError(
            f"UNet.channels must be a multiple of 32 (GroupNorm's groups): got "
            f"{unet.channels}; use {max(unet.channels // 32, 1) * 32}."
        )


def _check_inputs(unet: UNet, z_t: Array, t: Array, cond: Conditioning) -> None:
    """Raises ValueError unless the arguments have the shapes that fields require."""
    divisor = 2 ** (len(unet.channel_mult) - 1)
    if z_t.ndim != 4 or z_t.shape[1] % divisor or z_t.shape[2] % divisor:
        raise ValueError(
            f"z_t must be [B, h, w, c] with h and w divisible by {divisor} "
            f"({len(unet.channel_mult)} levels in channel_mult): got {z_t.shape}; use "
            "fewer levels or another image size."
        )
    if t.shape != z_t.shape[:1]:
        raise ValueError(
            f"t must hold one step per sample: got t {t.shape} for a batch of "
            f"{z_t.shape[0]}; for a common step use jnp.full((B,), t)."
        )
    extra = 0 if cond.concat is None else cond.concat.shape[-1]
    expected = unet.in_channels or unet.out_channels
    if z_t.shape[-1] + extra != expected:
        raise ValueError(
            f"z_t and cond.concat must have in_channels={expected} channels together: "
            f"got {z_t.shape[-1]} + {extra}; set UNet.in_channels to their sum."
        )
    if cond.concat is not None and cond.concat.shape[:3] != z_t.shape[:3]:
        raise ValueError(
            f"cond.concat must have the batch, height and width of z_t: got "
            f"{cond.concat.shape} and {z_t.shape}; bring the condition to the latent "
            "grid (image size / f)."
        )
    shape = None if cond.context is None else cond.context.shape
    if (shape and shape[-1]) != unet.context_dim:
        expected = f"[B, M, {unet.context_dim}]" if unet.context_dim else "absent"
        raise ValueError(
            f"cond.context must be {expected} (UNet.context_dim): got "
            f"{shape or 'no context'}; give the condition that the model was made for, "
            "or use the conditioner's width as context_dim."
        )
    if (cond.class_label is None) != (unet.num_classes is None):
        raise ValueError(
            f"cond.class_label must be given if UNet.num_classes is set, and only "
            f"then: got class_label "
            f"{'absent' if cond.class_label is None else 'present'} and "
            f"num_classes={unet.num_classes}; use a condition of the kind that the "
            "model was made for."
        )
