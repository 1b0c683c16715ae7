# SPDX-License-Identifier: Apache-2.0
"""Attention blocks with their parameters, for latent grids and for sequences.

Parameters are named in one way: a norm before the layer that reads it, then q, k, v,
out.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Float32

from ldm_jax.models.attention.attention import attend, check_qkv
from ldm_jax.models.layers import Dense, DenseHalves, GroupNorm
from ldm_jax.types import Array, DType


class LayerNorm(nn.Module):
    """Layer normalisation in float32 with PyTorch's epsilon (Flax's is 1e-6)."""

    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "*n C"]) -> Float[Array, "*n C"]:
        """Normalises the last axis; keeps the dtype."""
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        x32 = x.astype(jnp.float32)
        centred = x32 - x32.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        y = centred * lax.rsqrt(variance + self.eps)
        every_axis = (1,) * (x.ndim - 1) + shape
        return (y * scale.reshape(every_axis) + bias.reshape(every_axis)).astype(
            x.dtype
        )


def multi_head(
    x: Float[Array, "B N C"],
    context: Float[Array, "B M D"],
    num_heads: int,
    head_channels: int,
    *,
    qkv_bias: bool = False,
    zero_init: bool = False,
    is_causal: bool = False,
    backend: str = "auto",
    dtype: DType | None = None,
) -> Float[Array, "B N C"]:
    """Declares q, k, v, out in the calling module's scope and computes attention.

    Args:
      x: tokens that attend.
      context: tokens attended to; `x` itself for self-attention.
      num_heads: heads.
      head_channels: width of a head; num_heads * head_channels need not be C.
      qkv_bias: whether q, k, v have biases.
      zero_init: start `out` at zero.
      is_causal: whether a token attends only to itself and the tokens before it.
      backend: see `attend`.
      dtype: dtype of the arithmetic; None takes that of `x`.
    """

    def project(source, name):
        width = num_heads * head_channels
        y = Dense(width, use_bias=qkv_bias, dtype=dtype, name=name)(source)
        return y.reshape(*y.shape[:-1], num_heads, head_channels)

    v = project(context, "v")  # [B, M, heads, d]
    if context.shape[1] == 1:
        # A softmax over one token is 1, so the result is that token's value for every
        # query; q and k are declared for no tokens and not computed.
        check_qkv(project(x[:, :0], "q"), v, v)
        project(context[:, :0], "k")
        y = v
    else:
        y = attend(project(x, "q"), project(context, "k"), v, backend, is_causal)
    y = y.reshape(*y.shape[:-2], num_heads * head_channels)  # [B, N or 1, heads * d]
    y = Dense(x.shape[-1], zero_init=zero_init, dtype=dtype, name="out")(y)
    return jnp.broadcast_to(y, x.shape)  # [B, 1, C] for a context of one token


class Attention(nn.Module):
    """Multi-head attention without biases in q, k, v.

    Attributes: as for `multi_head`.
    """

    num_heads: int
    head_channels: int
    backend: str = "auto"
    dtype: DType | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N C"], context: Float[Array, "B M D"]
    ) -> Float[Array, "B N C"]:
        """Computes attention of the tokens `x` to the tokens `context`."""
        return multi_head(
            x,
            context,
            self.num_heads,
            self.head_channels,
            backend=self.backend,
            dtype=self.dtype,
        )


def gelu(x: Float[Array, "*n"]) -> Float32[Array, "*n"]:
    """Computes GELU in float32: x times the normal distribution function of x.

    By erf, as PyTorch does. `flax.linen.gelu` uses 1 - erf, which is exact for very
    small results and several times as much work.
    """
    x = x.astype(jnp.float32)
    return 0.5 * x * (1 + lax.erf(x * 0.5**0.5))


class GatedMLP(nn.Module):
    """MLP with a GEGLU of width 4C: out(dropout(value * gelu(gate))).

    Source: Shazeer 2020, Eq. 6; GELU by erf, value before gate, as released.
    """

    dropout: float = 0.0
    dtype: DType | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N C"], is_training: bool
    ) -> Float[Array, "B N C"]:
        """Maps each token."""
        features = x.shape[-1]
        value, gate = DenseHalves(8 * features, dtype=self.dtype, name="in")(x)
        y = (value * gelu(gate)).astype(value.dtype)
        y = nn.Dropout(self.dropout)(y, deterministic=not is_training)
        return Dense(features, dtype=self.dtype, name="out")(y)


class TransformerBlock(nn.Module):
    """Self-attention, attention to the context and a gated MLP, with residuals.

    The input of each is normalised. Without a context, the second attention is
    self-attention too.
    """

    num_heads: int
    head_channels: int
    dropout: float = 0.0
    backend: str = "auto"
    dtype: DType | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N C"],
        context: Float[Array, "B M D"] | None,
        is_training: bool,
    ) -> Float[Array, "B N C"]:
        """Updates the tokens."""
        sizes = (self.num_heads, self.head_channels, self.backend, self.dtype)
        # Tab. 16 of the paper puts the MLP before cross-attention; the released
        # weights have it after. We follow the weights.
        y = LayerNorm(name="norm_1")(x)
        x = x + Attention(*sizes, name="attn_1")(y, y)
        y = LayerNorm(name="norm_2")(x)
        x = x + Attention(*sizes, name="attn_2")(y, y if context is None else context)
        y = LayerNorm(name="norm_3")(x)
        return x + GatedMLP(self.dropout, self.dtype, name="mlp")(y, is_training)


class SpatialTransformer(nn.Module):
    """Transformer over the positions of a grid that attends to a context.

    Its last layer starts at zero, so that it starts as the identity.

    Source: Rombach et al. 2022, Sec. 3.3 and Tab. 16.
    """

    num_heads: int
    head_channels: int
    depth: int = 1
    dropout: float = 0.0
    backend: str = "auto"
    dtype: DType | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B h w C"],
        context: Float[Array, "B M D"] | None,
        is_training: bool,
    ) -> Float[Array, "B h w C"]:
        """Adds the transformer's output to the grid."""
        batch, height, width, channels = x.shape
        inner = self.num_heads * self.head_channels
        y = GroupNorm(eps=1e-6, name="norm")(x)
        y = Dense(inner, dtype=self.dtype, name="proj_in")(y)
        y = y.reshape(batch, height * width, inner)
        for d in range(self.depth):
            y = TransformerBlock(
                self.num_heads,
                self.head_channels,
                self.dropout,
                self.backend,
                self.dtype,
                name=f"block_{d}",
            )(y, context, is_training)
        y = Dense(channels, zero_init=True, dtype=self.dtype, name="proj_out")(y)
        return x + y.reshape(x.shape)


class AttentionBlock(nn.Module):
    """Self-attention over the positions of a grid, with a residual.

    Its last layer starts at zero, so that it starts as the identity.

    Source: Dhariwal & Nichol 2021, App. A; eps 1e-5 as released.
    """

    num_heads: int
    head_channels: int
    backend: str = "auto"
    dtype: DType | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
        """Adds the attention's output to the grid."""
        y = GroupNorm(eps=1e-5, name="norm")(x)
        y = y.reshape(x.shape[0], -1, x.shape[-1])
        y = multi_head(
            y,
            y,
            self.num_heads,
            self.head_channels,
            qkv_bias=True,
            zero_init=True,
            backend=self.backend,
            dtype=self.dtype,
        )
        return x + y.reshape(x.shape)
