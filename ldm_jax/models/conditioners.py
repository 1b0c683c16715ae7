# SPDX-License-Identifier: Apache-2.0
"""Conditioners tau_theta, networks that encode a condition y for a denoiser.

Source: Rombach et al. 2022, Sec. 3.3 and App. E.2.1; the released code for details that
the paper leaves open.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float, Float32, Int

from ldm_jax.models.layers import Dense
from ldm_jax.models.resampling import halve
from ldm_jax.models.transformer import Attention, LayerNorm, gelu
from ldm_jax.types import Array, DType


class ClassToken(nn.Module):
    """Embeds classes as one learned token each.

    Attributes:
      num_classes: rows of the table; if there is a null class, it is one of them.
      width: d.
    """

    num_classes: int
    width: int

    @nn.compact
    def __call__(self, label: Int[Array, " B"]) -> Float32[Array, "B 1 {self.width}"]:
        """Looks up the tokens of labels in [0, num_classes)."""
        shape = (self.num_classes, self.width)
        table = self.param("embedding", nn.initializers.normal(1.0), shape)
        # NumPy parameters, which `ldm_jax.load` returns, cannot be indexed by a tracer.
        return jnp.asarray(table)[label][:, None]


class TokenTransformer(nn.Module):
    """Encodes tokens with a transformer in which every token attends to all tokens.

    The released encoder attends without a mask, so padding is part of the prompt. Its
    unused output layer `to_logits` is not declared here.

    Attributes:
      vocab_size: ids are in [0, vocab_size).
      width: d.
      depth: number of layers.
      length: number of tokens M; no other is accepted.
      num_heads: heads.
      head_channels: width of a head; 8 heads of 64 for every d, as released.
      dtype: dtype of the arithmetic; norms, softmax and output are float32.
    """

    vocab_size: int
    width: int
    depth: int
    length: int = 77
    num_heads: int = 8
    head_channels: int = 64
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, tokens: Int[Array, "B M"]) -> Float32[Array, "B M {self.width}"]:
        """Encodes every token.

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
    """Self-attention and an MLP of width 4 d (GELU by erf), on normalised inputs."""

    num_heads: int
    head_channels: int
    dtype: DType

    @nn.compact
    def __call__(self, x: Float[Array, "B M d"]) -> Float[Array, "B M d"]:
        """Updates the tokens."""
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
    """Halves an image or a label map a few times and maps its channels linearly.

    Attributes:
      num_stages: number of halvings, log2 of f.
      num_classes: labels of the map, or channels of the image.
      out_channels: k; with None there is no linear map, and k is num_classes.
      use_bias: whether the linear map has a bias.
    """

    num_stages: int
    num_classes: int
    out_channels: int | None
    use_bias: bool = False

    @nn.compact
    def __call__(
        self, y: Int[Array, "B H W"] | Float[Array, "B H W C"]
    ) -> Float[Array, "B h w k"]:
        """Maps a label map or an image to the latent grid.

        Args:
          y: labels, of which those outside [0, num_classes) give a zero vector, or an
            image.

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

        def map_channels(x):
            if self.out_channels is None:
                return x
            return Dense(self.out_channels, use_bias=self.use_bias, name="mapper")(x)

        if y.ndim == 3:
            # The linear map commutes with averaging, so every label is mapped once and
            # looked up; the one-hot map [B, H, W, num_classes] is never stored.
            table = map_channels(jnp.eye(self.num_classes + 1, self.num_classes))
            known = (y >= 0) & (y < self.num_classes)
            x = table[jnp.where(known, y, self.num_classes)]
        else:
            if y.shape[-1] != self.num_classes:
                raise ValueError(
                    f"SpatialRescaler takes {self.num_classes} channels: got {y.shape}."
                )
            x = map_channels(y)
        for _ in range(self.num_stages):
            # Bilinear resizing by 1/2 without antialiasing is the 2x2 mean, exactly.
            x = halve(x)
        return x
