# SPDX-License-Identifier: Apache-2.0
"""The denoising network eps_theta(z_t, t, y).

Residual blocks at several resolutions, attention where asked for; every block of the
way down hands its output to its mirror image on the way up.
Source: Rombach et al. 2022, Tab. 12-15; Dhariwal & Nichol 2021, App. A.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ldm_jax.models import bounds
from ldm_jax.models.blocks import Blocks, timestep_embedding
from ldm_jax.models.bounds import check_bounds
from ldm_jax.models.layers import REMAT_POLICIES, Conv, Dense, GroupNorm
from ldm_jax.types import Array, Conditioning


class Down(nn.Module):
    """One level of the way down; also returns what its mirror image will join."""

    blocks: Blocks
    features: int
    num_blocks: int
    has_attention: bool
    is_last: bool

    @nn.compact
    def __call__(self, x, time, context):
        """[B, h, w, C] -> [B, h/2, w/2, features] (h, w if last), list of skips."""
        skips = []
        for b in range(self.num_blocks):
            x = self.blocks.residual(f"res_{b}", x, time, self.features)
            if self.has_attention:
                x = self.blocks.attention(f"attn_{b}", x, context)
            skips.append(x)
        if not self.is_last:
            x = self.blocks.downsample(x, time)
            skips.append(x)
        return x, skips


class Up(nn.Module):
    """One level of the way up, mirror image of `Down`."""

    blocks: Blocks
    features: int
    num_blocks: int
    has_attention: bool
    is_last: bool

    @nn.compact
    def __call__(self, x, time, context, skips):
        """[B, h, w, C] -> [B, 2h, 2w, features] (h, w if last)."""
        for b in range(self.num_blocks):
            x = jnp.concatenate([x, skips.pop()], axis=-1)
            x = self.blocks.residual(f"res_{b}", x, time, self.features)
            if self.has_attention:
                x = self.blocks.attention(f"attn_{b}", x, context)
        if not self.is_last:
            x = self.blocks.upsample(x, time)
        return x


class Middle(nn.Module):
    """The coarsest level between the two ways: it always attends."""

    blocks: Blocks

    @nn.compact
    def __call__(self, x, time, context):
        """[B, h, w, C] -> [B, h, w, C]."""
        x = self.blocks.residual("res_0", x, time, x.shape[-1])
        x = self.blocks.attention("attn", x, context)
        return self.blocks.residual("res_1", x, time, x.shape[-1])


class UNet(nn.Module):
    """Predicts noise (or x0, or v) from a noisy latent, a step and a condition.

    Attributes:
      channels: width of the finest level; a multiple of 32.
      channel_mult: width of each level in units of `channels`; level l works on
        h / 2^l x w / 2^l.
      out_channels: latent channels c.
      in_channels: c, plus the channels of `Conditioning.concat`; None means c.
      num_res_blocks: residual blocks per level on the way down; one more going up.
      attention_levels: levels that attend, 0 the finest; the middle always does.
      num_heads: heads of every attention. Give this or `head_channels`.
      head_channels: width of a head; the number of heads follows.
      transformer_depth: 0 for plain self-attention, n for n transformer blocks.
      context_dim: width d of `Conditioning.context`; None without one.
      num_classes: classes of `Conditioning.class_label`, added to time; None without.
      scale_shift_norm: time scales and shifts norms instead of being added.
      resblock_updown: residual blocks that resample, instead of convolutions.
      conv_resample: convolutions when resampling; otherwise mean and repetition.
      dropout: probability in residual blocks and in the transformers' MLPs.
      dtype: dtype of the arithmetic; parameters, norms, softmax and output are float32.
      remat: what is recomputed in the backward pass; a key of `REMAT_POLICIES`.
      attention_backend: see `attend`.
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
    dtype: jnp.dtype = jnp.float32
    remat: str = "none"
    attention_backend: str = "auto"

    def __post_init__(self):
        check_fields(self)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        z_t: Array,
        t: Array,
        cond: Conditioning = Conditioning(),  # noqa: B008  (a constant)
        is_training: bool = False,
    ) -> Array:
        """Predicts the noise in z_t.

        Args:
          z_t: [B, h, w, c] noisy latents; h and w divisible by 2^(levels - 1).
          t: [B] steps in [0, T).
          cond: what the fields ask for: context [B, M, context_dim], concat
            [B, h, w, in_channels - c], class_label [B] int32 in [0, num_classes).
          is_training: whether to drop; then apply with rngs={"dropout": key}.

        Returns:
          [B, h, w, out_channels] float32.

        Raises:
          ValueError: shapes do not fit, or `cond` lacks or exceeds what is asked for.
        """
        check_inputs(self, z_t, t, cond)
        blocks = make_blocks(self, is_training)
        time = self.embed(t, cond.class_label)
        context = None if cond.context is None else cond.context.astype(self.dtype)
        x = z_t if cond.concat is None else jnp.concatenate([z_t, cond.concat], -1)

        x, skips = downward_path(self, blocks, x, time, context)
        x = Middle(blocks, name="mid")(x, time, context)
        for level in reversed(range(len(self.channel_mult))):
            x = Up(
                blocks,
                num_blocks=self.num_res_blocks + 1,
                is_last=level == 0,
                **level_fields(self, level),
                name=f"up_{level}",
            )(x, time, context, skips)
        x = nn.silu(GroupNorm(eps=1e-5, name="norm_out")(x)).astype(jnp.float32)
        return Conv(self.out_channels, zero_init=True, name="conv_out")(x)

    def embed(self, t: Array, class_label: Array | None) -> Array:
        """Embeds steps [B] and classes [B]: activated [B, 4 * channels]."""
        time = embed_steps(t, self.channels)
        if class_label is not None:
            table = nn.Embed(
                self.num_classes,
                time.shape[-1],
                embedding_init=nn.initializers.normal(1.0),
                name="label_embedding",
            )
            time = time + table(class_label)
        return nn.silu(time).astype(self.dtype)


def make_blocks(network: nn.Module, is_training: bool) -> Blocks:
    """Makes the blocks that a network's fields of the same names describe."""
    names = [field.name for field in dataclasses.fields(Blocks)]
    options = {name: getattr(network, name) for name in names if name != "is_training"}
    return Blocks(**options, is_training=is_training)


def level_fields(network: nn.Module, level: int) -> dict[str, Any]:
    """Returns the fields of `Down` and `Up` that follow from a network's level."""
    return dict(
        features=network.channels * network.channel_mult[level],
        has_attention=level in network.attention_levels,
    )


def embed_steps(t: Array, channels: int) -> Array:
    """Embeds steps [B] in the scope of the caller: [B, 4 * channels], not activated."""
    width = 4 * channels
    time = Dense(width, name="time_dense_0")(timestep_embedding(t, channels))
    return Dense(width, name="time_dense_1")(nn.silu(time))


def downward_path(
    network: nn.Module, blocks: Blocks, x: Array, time: Array, context: Array | None
) -> tuple[Array, list[Array]]:
    """Applies the first convolution and the levels going down, in the caller's scope.

    Returns:
      ([B, h / 2^(levels - 1), ..., features], the outputs of every block).
    """
    x = Conv(network.channels, dtype=network.dtype, name="conv_in")(x)
    outputs = [x]
    for level in range(len(network.channel_mult)):
        x, new = Down(
            blocks,
            num_blocks=network.num_res_blocks,
            is_last=level == len(network.channel_mult) - 1,
            **level_fields(network, level),
            name=f"down_{level}",
        )(x, time, context)
        outputs += new
    return x, outputs


def check_fields(unet: UNet) -> None:
    """Raises ValueError when the fields of a UNet contradict each other."""
    check_bounds(
        "UNet",
        {
            "in_channels": (unet.in_channels, bounds.MAX_CHANNELS),
            "out_channels": (unet.out_channels, bounds.MAX_CHANNELS),
            "channels": (unet.channels, bounds.MAX_CHANNELS),
            "channel_mult": (unet.channel_mult, bounds.MAX_CHANNELS),
            "num_res_blocks": (unet.num_res_blocks, bounds.MAX_BLOCKS),
            "transformer_depth": (unet.transformer_depth, bounds.MAX_DEPTH),
            "num_heads": (unet.num_heads, bounds.MAX_CHANNELS),
            "head_channels": (unet.head_channels, bounds.MAX_CHANNELS),
            "context_dim": (unet.context_dim, bounds.MAX_CHANNELS),
            "num_classes": (unet.num_classes, bounds.MAX_CLASSES),
        },
    )
    levels = len(unet.channel_mult)
    if (unet.num_heads is None) == (unet.head_channels is None):
        raise ValueError(
            "UNet takes exactly one of num_heads and head_channels: got "
            f"num_heads={unet.num_heads}, head_channels={unet.head_channels}."
        )
    heads = unet.head_channels if unet.num_heads is None else unet.num_heads
    if heads < 1 or levels < 1:
        raise ValueError(
            "UNet needs one head, of one channel, and one level in channel_mult at "
            f"least: got num_heads={unet.num_heads}, head_channels="
            f"{unet.head_channels}, channel_mult={tuple(unet.channel_mult)}."
        )
    if not set(unet.attention_levels) <= set(range(levels)):
        raise ValueError(
            f"UNet.attention_levels must lie in 0..{levels - 1} (0 is the finest of "
            f"the levels in channel_mult): got {tuple(unet.attention_levels)}."
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
            f"{unet.channels}."
        )


def check_inputs(unet: UNet, z_t: Array, t: Array, cond: Conditioning) -> None:
    """Raises ValueError unless the arguments are what the fields ask for."""
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
        raise ValueError(
            f"cond.context must be [B, M, {unet.context_dim}] (UNet.context_dim): got "
            f"{shape or 'no context'}; use the "
            "conditioner's width as context_dim."
        )
    if (cond.class_label is None) != (unet.num_classes is None):
        raise ValueError(
            f"cond.class_label and UNet.num_classes go together: got class_label "
            f"{'absent' if cond.class_label is None else 'present'} and "
            f"num_classes={unet.num_classes}."
        )
