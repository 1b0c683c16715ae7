# SPDX-License-Identifier: Apache-2.0
"""Encoder and Decoder: the convolutional halves of the first stage.

Both walk the same levels, the encoder from level 0 (finest) down, the decoder back up;
`channel_mult[level]` sets the width of a level. Source: Rombach et al. 2022, App. E.1,
Tab. 8; Esser et al. 2021, Tab. 7.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ldm_jax.models.attention.attention import attend
from ldm_jax.models.layers import Conv, Dense, GroupNorm, Upsample, rematerialize
from ldm_jax.types import Array

# The first stage's GroupNorm; the UNet's blocks use 1e-5.
EPS = 1e-6


class ResnetBlock(nn.Module):
    """Two normalised 3x3 convolutions beside a skip.

    Attributes:
      features: output channels; the skip is a 1x1 convolution where they change.
      dropout: rate before the second convolution.
      num_groups: of the norms.
      dtype: dtype of the arithmetic.
    """

    features: int
    dropout: float
    num_groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, is_training: bool = False) -> Array:
        """[B, H, W, C] -> [B, H, W, features]."""
        h = nn.swish(GroupNorm(EPS, self.num_groups, name="norm_1")(x))
        h = Conv(self.features, dtype=self.dtype, name="conv_1")(h)
        h = nn.swish(GroupNorm(EPS, self.num_groups, name="norm_2")(h))
        h = nn.Dropout(self.dropout, deterministic=not is_training)(h)
        h = Conv(self.features, dtype=self.dtype, name="conv_2")(h)
        if x.shape[-1] != self.features:
            x = Conv(self.features, 1, dtype=self.dtype, name="skip")(x)
        return x + h


class Attention(nn.Module):
    """Self-attention over all positions with one head and a residual."""

    num_groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, is_training: bool = False) -> Array:
        """[B, H, W, C] -> the same shape."""
        batch, height, width, channels = x.shape
        norm = GroupNorm(EPS, self.num_groups, name="norm")
        tokens = norm(x).reshape(batch, -1, channels)
        q, k, v = (
            Dense(channels, dtype=self.dtype, name=name)(tokens)[:, :, None]
            for name in ("q", "k", "v")
        )
        h = attend(q, k, v).reshape(batch, height, width, channels)
        return x + Dense(channels, dtype=self.dtype, name="out")(h)


class LinearAttention(nn.Module):
    """Attention of linear cost: softmax over the keys' positions, then two products.

    As in the original it has neither a normalisation nor a residual.
    Source: Shen et al. 2018; `attn_type: linear` of the released code.
    """

    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, is_training: bool = False) -> Array:
        """[B, H, W, C] -> the same shape."""
        batch, channels = x.shape[0], x.shape[-1]
        tokens = x.reshape(batch, -1, channels)
        q, k, v = (
            Dense(channels, use_bias=False, dtype=self.dtype, name=name)(tokens)
            for name in ("q", "k", "v")
        )
        weights = jax.nn.softmax(k.astype(jnp.float32), axis=1).astype(k.dtype)
        context = jnp.einsum("bnd,bne->bde", weights, v)
        h = jnp.einsum("bde,bnd->bne", context, q).reshape(x.shape)
        return Dense(channels, dtype=self.dtype, name="out")(h)


ATTENTION = ("vanilla", "linear")


class Blocks(nn.Module):
    """What a level and the middle are made of.

    Attributes: as for `Autoencoder`.
    """

    attn_type: str
    dropout: float
    num_groups: int
    dtype: Any
    remat: str

    def residual(self, features: int, name: str) -> nn.Module:
        """Makes a residual block."""
        block = rematerialize(ResnetBlock, self.remat)
        return block(features, self.dropout, self.num_groups, self.dtype, name=name)

    def attention(self, name: str) -> nn.Module:
        """Makes an attention."""
        if self.attn_type == "linear":
            return rematerialize(LinearAttention, self.remat)(self.dtype, name=name)
        block = rematerialize(Attention, self.remat)
        return block(self.num_groups, self.dtype, name=name)


class Mid(Blocks):
    """The coarsest level's block, with attention between two residual blocks."""

    has_attention: bool

    @nn.compact
    def __call__(self, x: Array, is_training: bool = False) -> Array:
        """[B, h, w, C] -> the same shape."""
        features = x.shape[-1]
        x = self.residual(features, "res_0")(x, is_training)
        if self.has_attention:
            x = self.attention("attn")(x, is_training)
        return self.residual(features, "res_1")(x, is_training)


class Level(Blocks):
    """Residual blocks of one resolution, then a change of resolution.

    Attributes:
      features: channels of the level.
      num_blocks: residual blocks.
      has_attention: whether each of them is followed by attention.
      resample: "down", "up" or None.
    """

    features: int
    num_blocks: int
    has_attention: bool
    resample: str | None

    @nn.compact
    def __call__(self, x: Array, is_training: bool = False) -> Array:
        """[B, H, W, C] -> [B, H', W', features], H' = H/2, 2H or H."""
        for b in range(self.num_blocks):
            x = self.residual(self.features, f"res_{b}")(x, is_training)
            if self.has_attention:
                x = self.attention(f"attn_{b}")(x, is_training)
        if self.resample == "down":
            x = Downsample(self.features, dtype=self.dtype, name="downsample")(x)
        elif self.resample == "up":
            x = Upsample(self.features, dtype=self.dtype, name="upsample")(x)
        return x


class Downsample(nn.Module):
    """3x3 convolution in steps of two, padded below and right; the UNet's all round.

    The released models were trained so.
    """

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] -> [B, H/2, W/2, features]."""
        padding = ((0, 1), (0, 1))
        conv = Conv(
            self.features, stride=2, padding=padding, dtype=self.dtype, name="conv"
        )
        return conv(x)


class Coder(nn.Module):
    """What both halves are told.

    Attributes:
      out_channels: of the result; the encoder's counts mean and log-variance both.
      channels, channel_mult, num_res_blocks, attention_levels, mid_attention: as for
        `Autoencoder`.
      block: fields of the `Blocks` of its levels and its middle.
    """

    out_channels: int
    channels: int
    channel_mult: tuple[int, ...]
    num_res_blocks: int
    attention_levels: tuple[int, ...]
    mid_attention: bool
    block: dict[str, Any]


class Encoder(Coder):
    """[B, H, W, in] -> [B, H/f, W/f, out_channels], f = 2^(levels - 1)."""

    @nn.compact
    def __call__(self, x: Array, is_training: bool = False) -> Array:
        dtype = self.block["dtype"]
        last = len(self.channel_mult) - 1
        x = Conv(self.channels, dtype=dtype, name="conv_in")(x)
        for level, mult in enumerate(self.channel_mult):
            x = Level(
                **self.block,
                features=self.channels * mult,
                num_blocks=self.num_res_blocks,
                has_attention=level in self.attention_levels,
                resample="down" if level < last else None,
                name=f"down_{level}",
            )(x, is_training)
        mid = Mid(**self.block, has_attention=self.mid_attention, name="mid")
        x = mid(x, is_training)
        x = nn.swish(GroupNorm(EPS, self.block["num_groups"], name="norm_out")(x))
        # The output is float32 whatever the blocks compute in.
        return Conv(self.out_channels, dtype=jnp.float32, name="conv_out")(x)


class Decoder(Coder):
    """[B, h, w, c] -> [B, f h, f w, out_channels]; the encoder mirrored.

    Each level has one residual block more than the encoder's. `to_image` is the last
    layer, apart because the adversary's weight is measured on its kernel.

    Attributes:
      tanh_out: end with tanh.
    """

    tanh_out: bool = False

    def setup(self):
        dtype = self.block["dtype"]
        mult = self.channel_mult
        self.conv_in = Conv(self.channels * mult[-1], dtype=dtype)
        self.mid = Mid(**self.block, has_attention=self.mid_attention)
        for level in range(len(mult)):
            up = Level(
                **self.block,
                features=self.channels * mult[level],
                num_blocks=self.num_res_blocks + 1,
                has_attention=level in self.attention_levels,
                resample="up" if level > 0 else None,
            )
            setattr(self, f"up_{level}", up)
        self.norm_out = GroupNorm(EPS, self.block["num_groups"])
        self.conv_out = Conv(self.out_channels, dtype=jnp.float32)

    def __call__(self, z: Array, is_training: bool = False) -> Array:
        return self.to_image(self.features(z, is_training))

    def features(self, z: Array, is_training: bool = False) -> Array:
        """[B, h, w, c] -> [B, H, W, channels], the input of the last convolution."""
        x = self.mid(self.conv_in(z), is_training)
        for level in reversed(range(len(self.channel_mult))):
            x = getattr(self, f"up_{level}")(x, is_training)
        return nn.swish(self.norm_out(x))

    def to_image(self, features: Array) -> Array:
        """[B, H, W, channels] -> [B, H, W, out_channels] float32."""
        image = self.conv_out(features)
        return jnp.tanh(image) if self.tanh_out else image
