# SPDX-License-Identifier: Apache-2.0
"""PatchGAN: classifies overlapping patches of an image as real or reconstructed."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from ldm_jax.models.layers import bias_init, convolve
from ldm_jax.types import Array

# torch.nn.BatchNorm2d: share of a new batch in the running statistics, and its eps.
MOMENTUM = 0.1
EPS = 1e-5


class Discriminator(nn.Module):
    """A stack of 4x4 convolutions, the first `num_layers` of them in steps of two.

    `conv_0` has no normalisation; `conv_1` ... `conv_{num_layers}` are followed by
    BatchNorm; `conv_out` gives one logit per patch. num_layers = 2, 3, 4 looks at
    patches 34, 70, 142 pixels wide.

    Attributes:
      num_layers: convolutions with stride two.
      channels: width of the first; doubled per layer up to eight times.
      batch_groups: BatchNorm's statistics are taken over this many equal slices of the
        batch. 1: over the whole batch, on however many devices it lies. The number of
        devices: over each device's share, as the original was trained.

    Source: Isola et al. 2017, App. 6.1.2; Esser et al. 2021.
    """

    num_layers: int = 3
    channels: int = 64
    batch_groups: int = 1

    @nn.compact
    def __call__(self, image: Array, is_training: bool = False) -> Array:
        """Classifies patches.

        In training BatchNorm uses the batch's own statistics and moves the running ones
        ("batch_stats", which must be mutable); otherwise it uses the running ones.

        Args:
          image: [B, H, W, 3] in [-1, 1].

        Returns:
          [B, h', w', 1] float32 logits; h' is H / 2^num_layers - 2 for H a multiple.

        Raises:
          ValueError: the image is too small for one patch, or `batch_groups` does not
            divide B.
        """
        self.check(image.shape)
        x = PatchConv(self.channels, name="conv_0")(image)
        x = nn.leaky_relu(x, 0.2)
        for n in range(1, self.num_layers + 1):
            features = self.channels * min(2**n, 8)
            stride = 2 if n < self.num_layers else 1
            name = f"conv_{n}"
            x = PatchConv(features, stride, use_bias=False, name=name)(x)
            x = BatchNorm(self.batch_groups, name=f"norm_{n}")(x, is_training)
            x = nn.leaky_relu(x, 0.2)
        return PatchConv(1, stride=1, name="conv_out")(x)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError for images [B, H, W, C] it cannot classify."""
        smallest = 3 * 2**self.num_layers
        if min(shape[1:3]) < smallest:
            raise ValueError(
                f"a discriminator of num_layers={self.num_layers} needs images of "
                f"{smallest}x{smallest} at least: got {shape[1]}x{shape[2]}; use fewer "
                "layers."
            )
        if shape[0] % self.batch_groups:
            raise ValueError(
                f"batch_groups={self.batch_groups} must divide the batch: got "
                f"{shape[0]} images."
            )


class PatchConv(nn.Module):
    """4x4 convolution, padded by one all round; kernel drawn from N(0, 0.02)."""

    features: int
    stride: int = 2
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, in] -> [B, H', W', features]; H' = H/2, or H - 1 at stride 1."""
        channels = x.shape[-1]
        init = nn.initializers.normal(0.02)
        kernel = self.param("kernel", init, (4, 4, channels, self.features))
        # "SAME" would pad a stride of one by (1, 2): another size of map.
        y = convolve(x, kernel, self.stride, ((1, 1), (1, 1)))
        if not self.use_bias:
            return y
        # The original re-draws kernels only; biases keep PyTorch's default.
        bias = self.param("bias", bias_init(16 * channels), (self.features,))
        return y + bias[None, None, None]


class BatchNorm(nn.Module):
    """Batch normalisation with PyTorch's running statistics (unbiased variance)."""

    batch_groups: int = 1

    @nn.compact
    def __call__(self, x: Array, is_training: bool) -> Array:
        """[B, H, W, C] -> the same shape."""
        channels = x.shape[-1]
        scale = self.param("scale", scale_init, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        groups = x.reshape(self.batch_groups, -1, *x.shape[1:])
        if not is_training:
            centre, spread = (v.value[None, None, None, None] for v in (mean, var))
            return normalize(groups, centre, spread, scale, bias).reshape(x.shape)
        axes = (1, 2, 3)
        centre = jnp.mean(groups, axes, keepdims=True)
        spread = jnp.mean(jnp.square(groups - centre), axes, keepdims=True)
        if not self.is_initializing():
            count = groups.size // (self.batch_groups * channels)
            follow(mean, centre)
            follow(var, spread * (count / (count - 1)))
        return normalize(groups, centre, spread, scale, bias).reshape(x.shape)


def scale_init(key: Array, shape: tuple[int, ...]) -> Array:
    """N(1, 0.02)."""
    return 1.0 + 0.02 * jax.random.normal(key, shape)


def normalize(x: Array, mean: Array, var: Array, scale: Array, bias: Array) -> Array:
    """Normalises [G, B/G, H, W, C] by statistics that broadcast against it."""
    scale, bias = (v[None, None, None, None] for v in (scale, bias))
    return (x - mean) * lax.rsqrt(var + EPS) * scale + bias


def follow(running: nn.Variable, batch: Array) -> None:
    """Moves a running statistic [C] towards the mean of the groups' [G, 1, 1, 1, C]."""
    target = lax.stop_gradient(jnp.mean(batch, axis=(0, 1, 2, 3)))
    running.value = (1 - MOMENTUM) * running.value + MOMENTUM * target
