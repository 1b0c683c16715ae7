# SPDX-License-Identifier: Apache-2.0
"""Encoder and decoder, the convolutional networks of the first stage.

The encoder applies levels 0 (finest), 1, ..., the decoder the same levels in reverse;
`channel_mult[level]` sets the width of a level.

Source: Rombach et al. 2022, App. E.1, Tab. 8; Esser et al. 2021, Tab. 7.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Float32

from ldm_jax.models.attention.attention import attend
from ldm_jax.models.layers import Conv, Dense, GroupNorm, rematerialize
from ldm_jax.models.resampling import AsymmetricDownsample, Upsample
from ldm_jax.types import Array, DType

# The first stage's GroupNorm; the UNet's blocks use 1e-5.
EPS = 1e-6


class ResnetBlock(nn.Module):
    """Two normalised 3x3 convolutions with a residual.

    Attributes:
      features: output channels; where they change, the residual is a 1x1 convolution.
      dropout: rate before the second convolution.
      num_groups: groups of the norms.
      dtype: dtype of the arithmetic.
    """

    features: int
    dropout: float
    num_groups: int
    dtype: DType | None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], is_training: bool = False
    ) -> Float[Array, "B H W {self.features}"]:
        """Applies the block."""
        h = nn.swish(GroupNorm(EPS, self.num_groups, name="norm_1")(x))
        h = Conv(self.features, dtype=self.dtype, name="conv_1")(h)
        h = nn.swish(GroupNorm(EPS, self.num_groups, name="norm_2")(h))
        h = nn.Dropout(self.dropout, deterministic=not is_training)(h)
        h = Conv(self.features, dtype=self.dtype, name="conv_2")(h)
        if x.shape[-1] != self.features:
            x = Conv(self.features, 1, dtype=self.dtype, name="skip")(x)
        return x + h


class VanillaAttention(nn.Module):
    """Self-attention over all positions with one head and a residual.

    Source: `attn_type: vanilla` of the released code.
    """

    num_groups: int
    dtype: DType | None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], is_training: bool = False
    ) -> Float[Array, "B H W C"]:
        """Adds the attention's output to the grid."""
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

    As in the original, it has neither a normalisation nor a residual.

    Source: Shen et al. 2018; `attn_type: linear` of the released code.
    """

    dtype: DType | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], is_training: bool = False
    ) -> Float[Array, "B H W C"]:
        """Computes attention over all positions."""
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


class CoderBlocks(nn.Module):
    """Makes the blocks of a level or of the middle.

    Attributes: as for `Autoencoder`.
    """

    attn_type: str
    dropout: float
    num_groups: int
    dtype: DType | None
    remat: str

    def residual(self, features: int, name: str) -> nn.Module:
        """Makes a residual block."""
        block = rematerialize(ResnetBlock, self.remat)
        return block(features, self.dropout, self.num_groups, self.dtype, name=name)

    def attention(self, name: str) -> nn.Module:
        """Makes an attention block."""
        if self.attn_type == "linear":
            return rematerialize(LinearAttention, self.remat)(self.dtype, name=name)
        block = rematerialize(VanillaAttention, self.remat)
        return block(self.num_groups, self.dtype, name=name)


class Mid(CoderBlocks):
    """Two residual blocks at the coarsest level, with attention between them."""

    has_attention: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w C"], is_training: bool = False
    ) -> Float[Array, "B h w C"]:
        """Applies the blocks."""
        features = x.shape[-1]
        x = self.residual(features, "res_0")(x, is_training)
        if self.has_attention:
            x = self.attention("attn")(x, is_training)
        return self.residual(features, "res_1")(x, is_training)


class Level(CoderBlocks):
    """Residual blocks at one resolution, then a change of resolution.

    Attributes:
      features: channels of the level.
      num_blocks: number of residual blocks.
      has_attention: whether attention follows each of them.
      resample: "down", "up" or None.
    """

    features: int
    num_blocks: int
    has_attention: bool
    resample: str | None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], is_training: bool = False
    ) -> Float[Array, "B out_H out_W {self.features}"]:
        """Applies the level; H and W are halved, doubled or kept."""
        for b in range(self.num_blocks):
            x = self.residual(self.features, f"res_{b}")(x, is_training)
            if self.has_attention:
                x = self.attention(f"attn_{b}")(x, is_training)
        if self.resample == "down":
            down = AsymmetricDownsample(
                self.features, dtype=self.dtype, name="downsample"
            )
            x = down(x)
        elif self.resample == "up":
            x = Upsample(self.features, dtype=self.dtype, name="upsample")(x)
        return x


class Coder(nn.Module):
    """Fields of the encoder and the decoder.

    Attributes:
      out_channels: channels of the result; those of the encoder hold mean and
        log-variance for KL.
      channels, channel_mult, num_res_blocks, attention_levels, mid_attention: as for
        `Autoencoder`.
      block: fields of the `CoderBlocks` of its levels and its middle.
    """

    out_channels: int
    channels: int
    channel_mult: tuple[int, ...]
    num_res_blocks: int
    attention_levels: tuple[int, ...]
    mid_attention: bool
    block: dict[str, Any]


class Encoder(Coder):
    """Encodes images; halves height and width between levels: f = 2^(levels - 1)."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], is_training: bool = False
    ) -> Float32[Array, "B h w {self.out_channels}"]:
        """Maps images to the grid of latents, h = H / f, w = W / f."""
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
        # The output is float32, whatever the dtype of the blocks.
        return Conv(self.out_channels, dtype=jnp.float32, name="conv_out")(x)


class Decoder(Coder):
    """Decodes latents: the mirror image of the encoder.

    Each level has one residual block more than the encoder's. `to_image` is the last
    layer; it is separate because the weight of the adversarial loss is measured on its
    kernel.

    Attributes:
      tanh_out: whether to end with tanh.
    """

    tanh_out: bool = False

    def setup(self) -> None:
        """Makes the layers, which `features` and `to_image` share."""
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

    def __call__(
        self, z: Float[Array, "B h w c"], is_training: bool = False
    ) -> Float32[Array, "B H W {self.out_channels}"]:
        """Maps latents to images, H = f h, W = f w."""
        return self.to_image(self.features(z, is_training))

    def features(
        self, z: Float[Array, "B h w c"], is_training: bool = False
    ) -> Float[Array, "B H W features"]:
        """Computes the input of the last convolution."""
        x = self.mid(self.conv_in(z), is_training)
        for level in reversed(range(len(self.channel_mult))):
            x = getattr(self, f"up_{level}")(x, is_training)
        return nn.swish(self.norm_out(x))

    def to_image(
        self, features: Float[Array, "B H W features"]
    ) -> Float32[Array, "B H W {self.out_channels}"]:
        """Applies the last layer."""
        image = self.conv_out(features)
        return jnp.tanh(image) if self.tanh_out else image
