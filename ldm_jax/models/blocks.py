# SPDX-License-Identifier: Apache-2.0
"""What a UNet is built from: time embedding, residual block, resampling, attention.

Source: Dhariwal & Nichol 2021, App. A; the released code of Rombach et al. 2022.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from ldm_jax.models import layers
from ldm_jax.models.layers import Conv, Dense, GroupNorm, rematerialize
from ldm_jax.models.transformer import AttentionBlock, SpatialTransformer
from ldm_jax.types import Array


def timestep_embedding(t: Array, width: int) -> Array:
    """Turns steps into cosines and sines of geometrically spaced frequencies.

        [cos(t w_i), sin(t w_i)],  w_i = 10000^(-i / (width // 2))

    Args:
      t: [B] steps, whole or not.
      width: numbers per step; an odd width ends in a zero.

    Returns:
      [B, width] float32.

    Source: Vaswani et al. 2017, Sec. 3.5; cosines first, as in the released code.
    """
    half = width // 2
    frequencies = np.exp(-np.log(10000.0) * np.arange(half) / half).astype(np.float32)
    angles = t.astype(jnp.float32)[:, None] * frequencies[None]
    embedding = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, width % 2)))


class ResBlock(nn.Module):
    """Two convolutions around the injection of time, added to the input.

    Attributes:
      features: output channels.
      resample: "none", "up" (nearest, x2) or "down" (2x2 mean), applied inside.
      scale_shift_norm: time scales and shifts the second norm instead of being added.
      dropout: probability of dropping a channel value before the last convolution.
      dtype: dtype of the arithmetic.
    """

    features: int
    resample: str = "none"
    scale_shift_norm: bool = False
    dropout: float = 0.0
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array, time: Array, is_training: bool) -> Array:
        """[B, h, w, C], activated time [B, E] -> [B, h', w', features]."""
        y = nn.silu(GroupNorm(eps=1e-5, name="norm_1")(x))
        if self.resample == "up":
            # Doubles and convolves in one go; the parameters are those of a Conv.
            y = layers.PhaseConv(self.features, dtype=self.dtype, name="conv_1")(y)
            x = layers.double(x)
        else:
            if self.resample == "down":
                x, y = layers.halve(x), layers.halve(y)
            y = Conv(self.features, dtype=self.dtype, name="conv_1")(y)
        width = 2 * self.features if self.scale_shift_norm else self.features
        time = Dense(width, dtype=self.dtype, name="time")(time)[:, None, None]
        norm = GroupNorm(eps=1e-5, name="norm_2")
        if self.scale_shift_norm:
            scale, shift = jnp.split(time, 2, axis=-1)
            y = norm(y) * (1 + scale) + shift
        else:
            y = norm(y + time)
        y = nn.Dropout(self.dropout)(nn.silu(y), deterministic=not is_training)
        y = Conv(self.features, zero_init=True, dtype=self.dtype, name="conv_2")(y)
        if x.shape[-1] != self.features:
            x = Conv(self.features, 1, dtype=self.dtype, name="skip")(x)
        return x + y


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Makes the blocks of a UNet in the scope of the level that calls.

    Attributes: as for `UNet`, and `is_training`.
    """

    num_heads: int | None
    head_channels: int | None
    transformer_depth: int
    scale_shift_norm: bool
    resblock_updown: bool
    conv_resample: bool
    dropout: float
    dtype: jnp.dtype
    remat: str
    attention_backend: str
    is_training: bool

    def residual(self, name, x, time, features, resample="none"):
        """[B, h, w, C] -> [B, h', w', features]."""
        block = rematerialize(ResBlock, self.remat, static_argnums=(3,))(
            features,
            resample,
            self.scale_shift_norm,
            self.dropout,
            self.dtype,
            name=name,
        )
        return block(x, time, self.is_training)

    def attention(self, name, x, context):
        """[B, h, w, C] -> [B, h, w, C]."""
        channels = x.shape[-1]
        if channels % (self.num_heads or self.head_channels):
            raise ValueError(
                f"attention heads must divide the channels: got {channels} channels "
                f"for num_heads={self.num_heads}, head_channels={self.head_channels}; "
                "change them, channels or channel_mult."
            )
        heads = self.num_heads or channels // self.head_channels
        sizes = dict(num_heads=heads, head_channels=channels // heads)
        sizes.update(backend=self.attention_backend, dtype=self.dtype, name=name)
        if not self.transformer_depth:
            return rematerialize(AttentionBlock, self.remat, static_argnums=())(
                **sizes
            )(x)
        block = rematerialize(SpatialTransformer, self.remat, static_argnums=(3,))
        block = block(depth=self.transformer_depth, dropout=self.dropout, **sizes)
        return block(x, context, self.is_training)

    def downsample(self, x, time):
        """[B, h, w, C] -> [B, h/2, w/2, C]."""
        if self.resblock_updown:
            return self.residual("downsample", x, time, x.shape[-1], "down")
        if self.conv_resample:
            return Downsample(x.shape[-1], dtype=self.dtype, name="downsample")(x)
        return layers.halve(x)

    def upsample(self, x, time):
        """[B, h, w, C] -> [B, 2h, 2w, C]."""
        if self.resblock_updown:
            return self.residual("upsample", x, time, x.shape[-1], "up")
        if self.conv_resample:
            return layers.Upsample(x.shape[-1], dtype=self.dtype, name="upsample")(x)
        return layers.double(x)


class Downsample(nn.Module):
    """3x3 convolution in steps of two; padded all round, unlike the first stage's."""

    features: int
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, h, w, C] -> [B, h/2, w/2, features]."""
        return Conv(self.features, stride=2, dtype=self.dtype, name="conv")(x)
