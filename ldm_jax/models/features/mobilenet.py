# SPDX-License-Identifier: Apache-2.0
"""MobileNetV2, a small feature network where InceptionV3 is too slow or unavailable.

A Frechet distance of its features is not an FID and is never reported as one. Weights
are not part of this package; `ldm-jax weights mobilenet` makes a file of them, with the
batch normalisations folded in.

Source: Sandler et al. 2018, Tab. 2.
"""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Float32, Real

from ldm_jax.types import Array

IMAGE_SIZE = 224
NUM_FEATURES = 1280
PRECISION = lax.Precision.HIGHEST


class Origin(NamedTuple):
    """Conventions of a set of published weights.

    Attributes:
      shift, scale: of each channel: the network's input is (image - shift) / scale.
      is_symmetric: whether a strided convolution pads (1, 1), as PyTorch does, or
        (0, 1), as TensorFlow does.
      num_logits: classes; TensorFlow's first one is the background.
    """

    shift: tuple[float, float, float]
    scale: tuple[float, float, float]
    is_symmetric: bool
    num_logits: int


ORIGINS = {
    "tensorflow": Origin((127.5, 127.5, 127.5), (127.5, 127.5, 127.5), False, 1001),
    "torchvision": Origin(
        (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), True, 1000
    ),
}
# (expansion, channels, number of blocks, stride of the first).
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class MobileNetV2(nn.Module):
    """Computes features and logits of images.

    Attributes:
      origin: publisher of the weights, a key of ORIGINS.
    """

    origin: str = "torchvision"

    @nn.compact
    def __call__(
        self, image: Real[Array, "B H W 3"]
    ) -> dict[str, Float32[Array, "B _"]]:
        """Computes features and logits.

        Args:
          image: in [0, 255], any size; resized with antialiasing.

        Returns:
          "pool" [B, 1280] features, "logits" [B, 1000 or 1001].
        """
        origin = ORIGINS[self.origin]
        shape = (len(image), IMAGE_SIZE, IMAGE_SIZE, 3)
        x = jax.image.resize(
            image.astype(jnp.float32), shape, "bilinear", precision=PRECISION
        )
        shift, scale = (
            jnp.asarray(v)[None, None, None] for v in (origin.shift, origin.scale)
        )
        symmetric = origin.is_symmetric
        x = ConvRelu6(32, 3, 2, symmetric, name="conv_in")((x - shift) / scale)
        n = 0
        for expansion, features, count, stride in STAGES:
            for i in range(count):
                x = InvertedResidual(
                    expansion,
                    features,
                    1 if i else stride,
                    symmetric,
                    name=f"block_{n}",
                )(x)
                n += 1
        x = ConvRelu6(NUM_FEATURES, 1, name="conv_out")(x)
        pool = jnp.mean(x, axis=(1, 2))
        kernel = self.param(
            "logits_kernel",
            nn.initializers.lecun_normal(),
            (NUM_FEATURES, origin.num_logits),
        )
        bias = self.param("logits_bias", nn.initializers.zeros, (origin.num_logits,))
        logits = jnp.dot(pool, kernel, precision=PRECISION) + bias[None]
        return {"pool": pool, "logits": logits}


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 per channel, 1x1 reduction; with a residual where it fits."""

    expansion: int
    features: int
    stride: int
    is_symmetric: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"]
    ) -> Float[Array, "B out_H out_W {self.features}"]:
        """Applies the block."""
        y, width = x, x.shape[-1] * self.expansion
        if self.expansion > 1:
            y = ConvRelu6(width, 1, name="expand")(y)
        y = ConvRelu6(
            width, 3, self.stride, self.is_symmetric, groups=width, name="depthwise"
        )(y)
        y = ConvRelu6(self.features, 1, is_linear=True, name="project")(y)
        return x + y if x.shape == y.shape else y


class ConvRelu6(nn.Module):
    """Convolution, bias and, unless linear, a clip to [0, 6].

    Attributes: as for `layers.Conv`; `is_symmetric` as for `Origin`; `groups` of
    channels.
    """

    features: int
    kernel_size: int
    stride: int = 1
    is_symmetric: bool = True
    groups: int = 1
    is_linear: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"]
    ) -> Float[Array, "B out_H out_W {self.features}"]:
        """Applies the layer."""
        size, half = self.kernel_size, self.kernel_size // 2
        shape = (size, size, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        window, strides = (size, size), (self.stride, self.stride)
        padding = ((half, half), (half, half))
        if not self.is_symmetric:
            padding = lax.padtype_to_pads(x.shape[1:3], window, strides, "SAME")
        if self.groups == 1:
            x = lax.conv_general_dilated(
                jnp.asarray(x),
                kernel,
                strides,
                padding,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                precision=PRECISION,
            )
        else:
            x = depthwise(x, kernel, self.stride, padding)
        x = x + bias[None, None, None]
        return x if self.is_linear else jnp.clip(x, 0, 6)


def depthwise(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "k k 1 C"],
    stride: int,
    padding: Sequence[tuple[int, int]],
) -> Float[Array, "B out_H out_W C"]:
    """Convolves every channel with a separate kernel, as a sum of shifted copies.

    On a CPU ten times faster than XLA's grouped convolution, and not slow elsewhere,
    where memory traffic sets the time.

    Args:
      x: features.
      kernel: one kernel for each channel.
      stride: step in both directions.
      padding: ((top, bottom), (left, right)).
    """
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    size = kernel.shape[0]
    height, width = ((side - size) // stride + 1 for side in x.shape[1:3])
    total = jnp.zeros((len(x), height, width, x.shape[-1]), x.dtype)
    for i in range(size):
        for j in range(size):
            rows = slice(i, i + (height - 1) * stride + 1, stride)
            columns = slice(j, j + (width - 1) * stride + 1, stride)
            total += x[:, rows, columns] * kernel[i, j][None, None]
    return total
