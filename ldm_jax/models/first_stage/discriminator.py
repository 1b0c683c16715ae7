# SPDX-License-Identifier: Apache-2.0
"""PatchGAN discriminator, which classifies patches as real or reconstructed."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Float32

from ldm_jax.models.layers import bias_init, convolve
from ldm_jax.types import Array, RandomKey, Size

# torch.nn.BatchNorm2d: share of a new batch in the running statistics, and its eps.
MOMENTUM = 0.1
EPS = 1e-5


class Discriminator(nn.Module):
    """Computes one logit per patch with 4x4 convolutions.

    The first `num_layers` have stride 2. `conv_0` has no normalisation; BatchNorm
    follows `conv_1` ... `conv_{num_layers}`; `conv_out` computes the logits. With
    num_layers = 2, 3, 4, patches are 34, 70, 142 pixels wide and overlap.

    Attributes:
      num_layers: number of convolutions with stride 2.
      channels: width of the first; doubled per layer, up to a factor of eight.
      batch_groups: number of equal slices of the batch over which BatchNorm computes
        its statistics. 1: the whole batch, on all devices. The number of devices: each
        device's share, as in the training of the original.

    Source: Isola et al. 2017, App. 6.1.2; Esser et al. 2021.
    """

    num_layers: int = 3
    channels: int = 64
    batch_groups: int = 1

    @nn.compact
    def __call__(
        self, image: Float[Array, "B H W 3"], is_training: bool = False
    ) -> Float32[Array, "B out_H out_W 1"]:
        """Computes the logits of patches.

        In training, BatchNorm uses the statistics of the batch and updates the running
        ones ("batch_stats", which must be mutable); otherwise it uses the running ones.

        Args:
          image: in [-1, 1].
          is_training: whether the batch is one of training.

        Returns:
          Logits; out_H is H / 2^num_layers - 2 if that divides H.

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

    def check(self, shape: tuple[Size, ...]) -> None:
        """Raises ValueError for images [B, H, W, C] that are too small or too few."""
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
    """4x4 convolution, padded by one on each side; kernel drawn from N(0, 0.02)."""

    features: int
    stride: int = 2
    use_bias: bool = True

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"]
    ) -> Float[Array, "B out_H out_W {self.features}"]:
        """Convolves [B, H, W, c]; the height becomes H/2, or H - 1 with stride 1."""
        channels = x.shape[-1]
        init = nn.initializers.normal(0.02)
        kernel = self.param("kernel", init, (4, 4, channels, self.features))
        # "SAME" would pad (1, 2) for a stride of 1, which gives another size.
        y = convolve(x, kernel, self.stride, ((1, 1), (1, 1)))
        if not self.use_bias:
            return y
        # The original re-draws kernels only; biases keep PyTorch's default.
        bias = self.param("bias", bias_init(16 * channels), (self.features,))
        return y + bias[None, None, None]


class BatchNorm(nn.Module):
    """Batch normalisation with PyTorch's running statistics (unbiased variance).

    Attributes:
      batch_groups: see `Discriminator`.
    """

    batch_groups: int = 1

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], is_training: bool
    ) -> Float[Array, "B H W C"]:
        """Normalises each channel."""
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
            update_statistic(mean, centre)
            update_statistic(var, spread * (count / (count - 1)))
        return normalize(groups, centre, spread, scale, bias).reshape(x.shape)


def scale_init(key: RandomKey, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Draws initial scales from N(1, 0.02)."""
    return 1.0 + 0.02 * jax.random.normal(key, shape)


def normalize(
    x: Float[Array, "G b H W C"],
    mean: Float[Array, "#G 1 1 1 C"],
    var: Float[Array, "#G 1 1 1 C"],
    scale: Float[Array, " C"],
    bias: Float[Array, " C"],
) -> Float[Array, "G b H W C"]:
    """Normalises G groups of images, with statistics of each or of all."""
    scale, bias = (v[None, None, None, None] for v in (scale, bias))
    return (x - mean) * lax.rsqrt(var + EPS) * scale + bias


def update_statistic(running: nn.Variable, batch: Float[Array, "G 1 1 1 C"]) -> None:
    """Moves a running statistic of each channel towards the mean of the groups'."""
    target = lax.stop_gradient(jnp.mean(batch, axis=(0, 1, 2, 3)))
    running.value = (1 - MOMENTUM) * running.value + MOMENTUM * target
