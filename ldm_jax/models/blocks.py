# SPDX-License-Identifier: Apache-2.0
"""Parts of a UNet: time embedding, residual block, resampling and attention.

Source: Dhariwal & Nichol 2021, App. A; the released code of Rombach et al. 2022.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Real

from ldm_jax.models.layers import Conv, Dense, GroupNorm, rematerialize
from ldm_jax.models.resampling import Downsample, PhaseConv, Upsample, double, halve
from ldm_jax.models.transformer import AttentionBlock, SpatialTransformer
from ldm_jax.types import Array, DType


def timestep_embedding(t: Real[Array, " B"], width: int) -> Float32[Array, "B {width}"]:
    """Embeds steps as cosines and sines of geometrically spaced frequencies.

        [cos(t w_i), sin(t w_i)],  w_i = 10000^(-i / (width // 2))

    Args:
      t: steps, integers or not.
      width: numbers per step; an odd width ends in a zero.

    Source: Vaswani et al. 2017, Sec. 3.5; cosines first, as in the released code.
    """
    half = width // 2
    frequencies = np.exp(-np.log(10000.0) * np.arange(half) / half).astype(np.float32)
    angles = t.astype(jnp.float32)[:, None] * frequencies[None]
    embedding = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, width % 2)))


class ResBlock(nn.Module):
    """Residual block: two convolutions, with the time embedding added between them.

    Attributes:
      features: output channels.
      resample: "none", "up" (nearest, x2) or "down" (2x2 mean), applied to both paths.
      scale_shift_norm: the embedding scales and shifts the second norm instead.
      dropout: probability of dropping a channel value before the last convolution.
      dtype: dtype of the arithmetic.
    """

    features: int
    resample: str = "none"
    scale_shift_norm: bool = False
    dropout: float = 0.0
    dtype: DType | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w C"], time: Float[Array, "B E"], is_training: bool
    ) -> Float[Array, "B out_h out_w {self.features}"]:
        """Applies the block; `time` is the activated embedding of the step."""
        y = nn.silu(GroupNorm(eps=1e-5, name="norm_1")(x))
        if self.resample == "up":
            # Doubling and convolution in one; the parameters are those of a Conv.
            y = PhaseConv(self.features, dtype=self.dtype, name="conv_1")(y)
            x = double(x)
        else:
            if self.resample == "down":
                x, y = halve(x), halve(y)
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
class UNetBlocks:
    """Makes the blocks of a UNet, in the scope of the level that calls a method.

    Attributes: as for `UNet`, and `is_training`.
    """

    num_heads: int | None
    head_channels: int | None
    transformer_depth: int
    scale_shift_norm: bool
    resblock_updown: bool
    conv_resample: bool
    dropout: float
    dtype: DType
    remat: str
    attention_backend: str
    is_training: bool

    def residual(
        self,
        name: str,
        x: Float[Array, "B h w C"],
        time: Float[Array, "B E"],
        features: int,
        resample: str = "none",
    ) -> Float[Array, "B out_h out_w {features}"]:
        """Applies a residual block."""
        block = rematerialize(ResBlock, self.remat, static_argnums=(3,))(
            features,
            resample,
            self.scale_shift_norm,
            self.dropout,
            self.dtype,
            name=name,
        )
        return block(x, time, self.is_training)

    def attention(
        self,
        name: str,
        x: Float[Array, "B h w C"],
        context: Float[Array, "B M d"] | None,
    ) -> Float[Array, "B h w C"]:
        """Applies self-attention, or transformer blocks that attend to the context.

        Raises:
          ValueError: the heads do not divide the channels.
        """
        channels = x.shape[-1]
        divisor = self.num_heads or self.head_channels
        assert divisor  # the network's fields are checked when it is made
        if channels % divisor:
            raise ValueError(
                f"attention heads must divide the channels: got {channels} channels "
                f"for num_heads={self.num_heads}, head_channels={self.head_channels}; "
                "change them, channels or channel_mult."
            )
        heads = self.num_heads or channels // divisor
        sizes: dict[str, Any] = dict(num_heads=heads, head_channels=channels // heads)
        sizes.update(backend=self.attention_backend, dtype=self.dtype, name=name)
        if not self.transformer_depth:
            return rematerialize(AttentionBlock, self.remat, static_argnums=())(
                **sizes
            )(x)
        block = rematerialize(SpatialTransformer, self.remat, static_argnums=(3,))
        block = block(depth=self.transformer_depth, dropout=self.dropout, **sizes)
        return block(x, context, self.is_training)

    def downsample(
        self, x: Float[Array, "B h w C"], time: Float[Array, "B E"]
    ) -> Float[Array, "B h//2 w//2 C"]:
        """Halves height and width."""
        if self.resblock_updown:
            return self.residual("downsample", x, time, x.shape[-1], "down")
        if self.conv_resample:
            return Downsample(x.shape[-1], dtype=self.dtype, name="downsample")(x)
        return halve(x)

    def upsample(
        self, x: Float[Array, "B h w C"], time: Float[Array, "B E"]
    ) -> Float[Array, "B 2*h 2*w C"]:
        """Doubles height and width."""
        if self.resblock_updown:
            return self.residual("upsample", x, time, x.shape[-1], "up")
        if self.conv_resample:
            return Upsample(x.shape[-1], dtype=self.dtype, name="upsample")(x)
        return double(x)
