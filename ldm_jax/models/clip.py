# SPDX-License-Identifier: Apache-2.0
"""CLIP's text encoder; its weights come from a published file and are not trained.

Source: Radford et al. 2021, Sec. 2.4; numbers as CLIPTextModel of transformers.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Float32, Int

from ldm_jax.models.layers import Dense
from ldm_jax.models.transformer import LayerNorm, gelu, multi_head
from ldm_jax.types import Array, DType

ACTIVATIONS = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": lambda x: gelu(x).astype(x.dtype),
}


class ClipText(nn.Module):
    """Causal transformer over byte pairs.

    Attributes:
      vocab_size: ids are in [0, vocab_size); the largest one ends a text.
      width: d; 768 for ViT-L/14.
      depth: number of layers; 12 for ViT-L/14.
      length: largest number of tokens M.
      num_heads: heads; 12 for ViT-L/14.
      mlp_width: inner width of the MLP; None is 4 d.
      activation: "quick_gelu" (OpenAI's models) or "gelu" (OpenCLIP's).
      pooled: width of the projected, normalised token at the end of the text, which is
        then the only token of the context; None returns all tokens.
      dtype: dtype of the arithmetic.

    Raises:
      ValueError: unknown activation.
    """

    vocab_size: int = 49408
    width: int = 768
    depth: int = 12
    length: int = 77
    num_heads: int = 12
    mlp_width: int | None = None
    activation: str = "quick_gelu"
    pooled: int | None = None
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, tokens: Int[Array, "B M"]) -> Float32[Array, "B out_M out"]:
        """Embeds every token, or with `pooled` the text as a vector of unit length."""
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f'unknown ClipText.activation "{self.activation}"; one of: '
                f"{', '.join(sorted(ACTIVATIONS))}."
            )
        init = nn.initializers.normal(0.02)
        words = self.param("token_embedding", init, (self.vocab_size, self.width))
        places = self.param("position_embedding", init, (self.length, self.width))
        x = (jnp.asarray(words)[tokens] + places[None, : tokens.shape[1]]).astype(
            self.dtype
        )
        for i in range(self.depth):
            x = ClipLayer(
                self.num_heads,
                self.mlp_width or 4 * self.width,
                self.activation,
                self.dtype,
                name=f"layer_{i}",
            )(x)
        x = LayerNorm(name="norm_out")(x.astype(jnp.float32))
        if self.pooled is None:
            return x
        end = jnp.argmax(tokens, axis=1)
        x = jnp.take_along_axis(x, end[:, None, None], axis=1)
        x = Dense(self.pooled, use_bias=False, name="projection")(x)
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


class ClipLayer(nn.Module):
    """Self-attention, causal or not, and an MLP, on normalised inputs."""

    num_heads: int
    mlp_width: int
    activation: str
    dtype: DType
    is_causal: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "B M d"]) -> Float[Array, "B M d"]:
        """Updates the tokens."""
        y = LayerNorm(name="norm_1")(x)
        attention = ClipAttention(
            self.num_heads, self.dtype, self.is_causal, name="attn"
        )
        x = x + attention(y)
        y = LayerNorm(name="norm_2")(x)
        y = Dense(self.mlp_width, dtype=self.dtype, name="mlp_in")(y)
        y = ACTIVATIONS[self.activation](y)
        return x + Dense(x.shape[-1], dtype=self.dtype, name="mlp_out")(y)


class ClipAttention(nn.Module):
    """Multi-head self-attention; causal: to the token itself and those before it."""

    num_heads: int
    dtype: DType
    is_causal: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B M d"]) -> Float[Array, "B M d"]:
        """Computes the attention."""
        width = x.shape[-1] // self.num_heads
        return multi_head(
            x,
            x,
            self.num_heads,
            width,
            qkv_bias=True,
            is_causal=self.is_causal,
            dtype=self.dtype,
        )
