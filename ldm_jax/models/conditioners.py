# SPDX-License-Identifier: Apache-2.0
"""tau_theta: networks that turn a raw condition y into what a denoiser reads.

Source: Rombach et al. 2022, Sec. 3.3 and App. E.2.1; the released code where it says
more than the paper.
"""

import flax.linen as nn
import jax.numpy as jnp

from ldm_jax.models.layers import Dense, halve
from ldm_jax.models.transformer import Attention, LayerNorm, gelu
from ldm_jax.types import Array


class ClassToken(nn.Module):
    """One learned token per class.

    Attributes:
      num_classes: rows of the table, the null class included where there is one.
      width: d.
    """

    num_classes: int
    width: int

    @nn.compact
    def __call__(self, label: Array) -> Array:
        """[B] int32 in [0, num_classes) -> [B, 1, d] float32."""
        shape = (self.num_classes, self.width)
        table = self.param("embedding", nn.initializers.normal(1.0), shape)
        # NumPy parameters, as `ldm_jax.load` gives them, take no traced index.
        return jnp.asarray(table)[label][:, None]


class TokenTransformer(nn.Module):
    """Transformer over tokens, normalised first; every token sees all, padding too.

    The released encoder attends without a mask, so padding is part of the prompt. Its
    unused output layer `to_logits` is not declared here.

    Attributes:
      vocab_size: ids are in [0, vocab_size).
      width: d.
      depth: pairs of attention and MLP.
      length: tokens M, exactly.
      num_heads: heads.
      head_channels: width of a head; 8 x 64 whatever d, as released.
      dtype: dtype of the arithmetic; norms, softmax and output are float32.
    """

    vocab_size: int
    width: int
    depth: int
    length: int = 77
    num_heads: int = 8
    head_channels: int = 64
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        """[B, length] int32 -> [B, length, d] float32.

        Raises:
          ValueError: the tokens are not `length` long.
        """
        if tokens.shape[1:] != (self.length,):
            raise ValueError(
                f"TokenTransformer takes tokens [B, {self.length}]: got "
                f"{tokens.shape}; pad or cut them to `length`."
            )
        init = nn.initializers.normal(0.02)
        words = self.param("token_embedding", init, (self.vocab_size, self.width))
        places = self.param("position_embedding", init, (self.length, self.width))
        x = (jnp.asarray(words)[tokens] + places[None]).astype(self.dtype)
        for i in range(self.depth):
            x = EncoderLayer(
                self.num_heads, self.head_channels, self.dtype, name=f"layer_{i}"
            )(x)
        return LayerNorm(name="norm_out")(x.astype(jnp.float32))


class EncoderLayer(nn.Module):
    """Self-attention, then a four times wider MLP (GELU by erf); norms come first."""

    num_heads: int
    head_channels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, M, d] -> [B, M, d]."""
        y = LayerNorm(name="norm_1")(x)
        attention = Attention(
            self.num_heads, self.head_channels, dtype=self.dtype, name="attn"
        )
        x = x + attention(y, y)
        y = LayerNorm(name="norm_2")(x)
        y = Dense(4 * x.shape[-1], dtype=self.dtype, name="mlp_in")(y)
        y = gelu(y).astype(y.dtype)
        return x + Dense(x.shape[-1], dtype=self.dtype, name="mlp_out")(y)


class SpatialRescaler(nn.Module):
    """Halves an image or a label map a few times and mixes its channels.

    Attributes:
      num_stages: halvings, log2 of f.
      num_classes: labels of the map, or channels of the image.
      out_channels: k; None mixes nothing, and k is num_classes.
      use_bias: whether the mixing adds a bias.
    """

    num_stages: int
    num_classes: int
    out_channels: int | None
    use_bias: bool = False

    @nn.compact
    def __call__(self, y: Array) -> Array:
        """Label map [B, H, W] int32, or image [B, H, W, channels], -> [B, h, w, k].

        A label outside of [0, num_classes) is an all-zero vector.

        Raises:
          ValueError: H or W is not divisible by 2^num_stages, or the channels are not
            `num_classes`.
        """
        divisor = 2**self.num_stages
        if y.shape[1] % divisor or y.shape[2] % divisor:
            raise ValueError(
                f"SpatialRescaler halves {self.num_stages} times, so height and width "
                f"must be multiples of {divisor}: got {y.shape[1]}x{y.shape[2]}."
            )

        def mix(x):
            if self.out_channels is None:
                return x
            return Dense(self.out_channels, use_bias=self.use_bias, name="mapper")(x)

        if y.ndim == 3:
            # Mixing commutes with averaging, so every label is mixed once and looked
            # up: the one-hot map [B, H, W, num_classes] is never written out.
            table = mix(jnp.eye(self.num_classes + 1, self.num_classes))
            known = (y >= 0) & (y < self.num_classes)
            x = table[jnp.where(known, y, self.num_classes)]
        else:
            if y.shape[-1] != self.num_classes:
                raise ValueError(
                    f"SpatialRescaler takes {self.num_classes} channels: got {y.shape}."
                )
            x = mix(y)
        for _ in range(self.num_stages):
            # Bilinear resizing by 1/2 without antialiasing is the 2x2 mean, exactly.
            x = halve(x)
        return x
