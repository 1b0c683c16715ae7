# SPDX-License-Identifier: Apache-2.0
"""Levels of a UNet: `Down` and its mirror image `Up`, and the `Middle` between them."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from ldm_jax.models.blocks import UNetBlocks
from ldm_jax.types import Array

# Outputs of the blocks on the downward path, finest first.
Skips = list[Float[Array, "B _ _ _"]]


class Down(nn.Module):
    """One level of the downward path: blocks, then half the resolution unless last."""

    blocks: UNetBlocks
    features: int
    num_blocks: int
    has_attention: bool
    is_last: bool

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B h w C"],
        time: Float[Array, "B E"],
        context: Float[Array, "B M d"] | None,
    ) -> tuple[Float[Array, "B _ _ {self.features}"], Skips]:
        """Returns the output and, as skips, the output of every block."""
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
    """One level of the upward path: blocks, then twice the resolution unless last."""

    blocks: UNetBlocks
    features: int
    num_blocks: int
    has_attention: bool
    is_last: bool

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B h w C"],
        time: Float[Array, "B E"],
        context: Float[Array, "B M d"] | None,
        skips: Skips,
    ) -> Float[Array, "B _ _ {self.features}"]:
        """Returns the output; every block takes one entry from the end of `skips`."""
        for b in range(self.num_blocks):
            x = jnp.concatenate([x, skips.pop()], axis=-1)
            x = self.blocks.residual(f"res_{b}", x, time, self.features)
            if self.has_attention:
                x = self.blocks.attention(f"attn_{b}", x, context)
        if not self.is_last:
            x = self.blocks.upsample(x, time)
        return x


class Middle(nn.Module):
    """The blocks between the two paths, always with attention."""

    blocks: UNetBlocks

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B h w C"],
        time: Float[Array, "B E"],
        context: Float[Array, "B M d"] | None,
    ) -> Float[Array, "B h w C"]:
        """Applies a residual block, attention and a residual block."""
        x = self.blocks.residual("res_0", x, time, x.shape[-1])
        x = self.blocks.attention("attn", x, context)
        return self.blocks.residual("res_1", x, time, x.shape[-1])
