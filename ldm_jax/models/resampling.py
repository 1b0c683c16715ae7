# SPDX-License-Identifier: Apache-2.0
"""Layers that halve or double height and width."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from ldm_jax.models.layers import Conv, conv_params, convolve
from ldm_jax.types import Array, DType


class Downsample(nn.Module):
    """3x3 convolution of stride 2, padded by one on each side.

    The first stage pads differently, see `AsymmetricDownsample`.
    """

    features: int
    dtype: DType | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w C"]
    ) -> Float[Array, "B h//2 w//2 {self.features}"]:
        """Halves height and width."""
        return Conv(self.features, stride=2, dtype=self.dtype, name="conv")(x)


class AsymmetricDownsample(nn.Module):
    """3x3 convolution of stride 2, padded by one below and on the right only.

    The released first stages were trained with this padding; the UNet's
    `Downsample` pads on each side.
    """

    features: int
    dtype: DType | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"]
    ) -> Float[Array, "B H//2 W//2 {self.features}"]:
        """Halves height and width."""
        padding = ((0, 1), (0, 1))
        conv = Conv(
            self.features, stride=2, padding=padding, dtype=self.dtype, name="conv"
        )
        return conv(x)


class Upsample(nn.Module):
    """Nearest-neighbour doubling followed by a 3x3 convolution, computed as one.

    Doubling repeats rows and columns, so each of the four output phases depends on a
    2x2 neighbourhood only: four 2x2 convolutions with summed kernels give the same
    numbers with 2.25x fewer operations.
    """

    features: int
    dtype: DType | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"]
    ) -> Float[Array, "B 2*H 2*W {self.features}"]:
        """Doubles height and width."""
        return PhaseConv(self.features, dtype=self.dtype, name="conv")(x)


class PhaseConv(nn.Module):
    """Computes `Upsample` with the parameters of a 3x3 `Conv`."""

    features: int
    kernel_size: int = 3
    use_bias: bool = True
    zero_init: bool = False
    dtype: DType | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"]
    ) -> Float[Array, "B 2*H 2*W {self.features}"]:
        """Doubles height and width."""
        kernel, bias = conv_params(self, x.shape[-1])
        dtype = self.dtype or x.dtype
        x = x.astype(dtype)
        rows = [
            jnp.stack(
                [
                    convolve(x, k.astype(dtype), 1, (pad_h, pad_w))
                    for k, pad_w in columns
                ],
                3,
            )
            for columns, pad_h in (
                (_phases(half, axis=1), pad) for half, pad in _phases(kernel, axis=0)
            )
        ]
        batch, height, width, _, out = rows[0].shape
        y = jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, out)
        return y if bias is None else y + bias.astype(dtype)[None, None, None]


def _phases(kernel: Array, axis: int) -> tuple[tuple[Array, tuple[int, int]], ...]:
    """Makes the 2 taps of even and of odd output positions from 3, with their padding.

    Output 2i depends on inputs (i-1, i, i), output 2i+1 on (i, i, i+1).
    """
    first, middle, last = jnp.split(kernel, 3, axis=axis)
    even = jnp.concatenate([first, middle + last], axis=axis)
    odd = jnp.concatenate([first + middle, last], axis=axis)
    return (even, (1, 0)), (odd, (0, 1))


def double(x: Float[Array, "B H W C"]) -> Float[Array, "B 2*H 2*W C"]:
    """Repeats every row and column."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def halve(x: Float[Array, "B H W C"]) -> Float[Array, "B H//2 W//2 C"]:
    """Averages 2x2 blocks."""
    batch, height, width, channels = x.shape
    blocks = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return blocks.mean(axis=(2, 4))
