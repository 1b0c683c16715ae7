# SPDX-License-Identifier: Apache-2.0
"""CLIP's image encoder, which embeds images in the space of its text encoder.

Source: Radford et al. 2021, Sec. 2.4; numbers as CLIPVisionModel of transformers.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float32, Real

from ldm_jax.models.clip import ClipLayer
from ldm_jax.models.layers import Conv, Dense
from ldm_jax.models.transformer import LayerNorm
from ldm_jax.types import Array

# Mean and deviation of channels in [0, 1], as in the training of published encoders.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class ClipImage(nn.Module):
    """Embeds images with a transformer over patches; by default that of ViT-L/14.

    Attributes:
      image_size: side of the images.
      patch: side of a patch.
      width, depth, num_heads: of the transformer.
      mlp_width: inner width of the MLP; None is 4 width.
      activation: "quick_gelu" (OpenAI's models) or "gelu" (OpenCLIP's).
      pooled: width of the result.
    """

    image_size: int = 224
    patch: int = 14
    width: int = 1024
    depth: int = 24
    num_heads: int = 16
    mlp_width: int | None = None
    activation: str = "quick_gelu"
    pooled: int = 768

    @nn.compact
    def __call__(
        self, image: Real[Array, "B {self.image_size} {self.image_size} 3"]
    ) -> Float32[Array, "B {self.pooled}"]:
        """Embeds images with values in [0, 255] as vectors of unit length."""
        mean, std = (jnp.asarray(v)[None, None, None] for v in (MEAN, STD))
        x = (image.astype(jnp.float32) / 255 - mean) / std
        x = Conv(
            self.width,
            self.patch,
            stride=self.patch,
            padding=((0, 0), (0, 0)),
            use_bias=False,
            name="patches",
        )(x)
        batch = len(x)
        x = x.reshape(batch, -1, self.width)
        init = nn.initializers.normal(0.02)
        first = self.param("class_embedding", init, (self.width,))
        first = jnp.broadcast_to(first, (batch, 1, self.width))
        x = jnp.concatenate([first, x], axis=1)
        x = x + self.param("position_embedding", init, x.shape[1:])[None]
        x = LayerNorm(name="norm_in")(x)
        for i in range(self.depth):
            x = ClipLayer(
                self.num_heads,
                self.mlp_width or 4 * self.width,
                self.activation,
                jnp.float32,
                is_causal=False,
                name=f"layer_{i}",
            )(x)
        x = LayerNorm(name="norm_out")(x[:, 0])
        x = Dense(self.pooled, use_bias=False, name="projection")(x)
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
