# SPDX-License-Identifier: Apache-2.0
"""Convolution, linear, normalisation and resampling layers shared by every network.

Defaults follow PyTorch, in which the published models were trained: weights and biases
are drawn from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), padding is explicit. Parameters are
float32; `dtype` is what the arithmetic runs in.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from ldm_jax.models.attention.attention import traced_for
from ldm_jax.models.placement import keep_rows
from ldm_jax.types import Array

# U(-1/sqrt(fan_in), 1/sqrt(fan_in)), the default of torch.nn.Conv2d and Linear.
kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
zeros_init = nn.initializers.zeros

# What the backward pass of a block recomputes: nothing, everything, or all but the
# convolutions' outputs (normalisation and activation are cheap, convolutions are not).
REMAT_POLICIES = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "convs": jax.checkpoint_policies.save_only_these_names("conv"),
}


def rematerialize(
    block: type[nn.Module], policy: str, static_argnums: tuple[int, ...] = (2,)
) -> type[nn.Module]:
    """Wraps a block so that its backward pass recomputes.

    Args:
      block: module class; its parameters keep their names.
      policy: a key of `REMAT_POLICIES`.
      static_argnums: positions of Python values among the arguments of `__call__`
        (0 is `self`); the default fits (x, is_training).
    """
    if policy == "none":
        return block
    return nn.remat(block, policy=REMAT_POLICIES[policy], static_argnums=static_argnums)


def bias_init(fan_in: int):
    """Makes the initializer of PyTorch's biases: U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""

    def init(key, shape, dtype=jnp.float32):
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Conv(nn.Module):
    """2-D convolution with PyTorch's initialization and explicit padding.

    Attributes:
      features: output channels.
      kernel_size: side of the square kernel.
      stride: step in both directions.
      padding: ((top, bottom), (left, right)); None pads `kernel_size // 2` all round.
      use_bias: whether a bias is added.
      zero_init: start from a zero kernel and bias, so that a residual branch is silent.
      dtype: dtype of the arithmetic and of the output; None takes the input's.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    padding: tuple[tuple[int, int], tuple[int, int]] | None = None
    use_bias: bool = True
    zero_init: bool = False
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, in] -> [B, H', W', features]."""
        kernel, bias = conv_params(self, x.shape[-1])
        half = self.kernel_size // 2
        padding = ((half, half), (half, half)) if self.padding is None else self.padding
        dtype = self.dtype or x.dtype
        y = convolve(x.astype(dtype), kernel.astype(dtype), self.stride, padding)
        y = checkpoint_name(y, "conv")
        return y if bias is None else y + bias.astype(dtype)[None, None, None]


def conv_params(module: nn.Module, in_features: int) -> tuple[Array, Array | None]:
    """Declares `kernel` [k, k, in, out] and `bias` [out] in the scope of `module`."""
    size, out = module.kernel_size, module.features
    fan_in = size * size * in_features
    init_kernel = zeros_init if module.zero_init else kernel_init
    kernel = module.param("kernel", init_kernel, (size, size, in_features, out))
    if not module.use_bias:
        return kernel, None
    init_bias = zeros_init if module.zero_init else bias_init(fan_in)
    return kernel, module.param("bias", init_bias, (out,))


def convolve(x: Array, kernel: Array, stride: int, padding) -> Array:
    """NHWC convolution (cross-correlation) with an HWIO kernel."""
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


class Dense(nn.Module):
    """Linear map of the last axis with PyTorch's initialization.

    Attributes: as for `Conv`.
    """

    features: int
    use_bias: bool = True
    zero_init: bool = False
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., in] -> [..., features]."""
        sizes = (x.shape[-1], self.features, self.zero_init)
        kernel = dense_kernel(self, *sizes)
        bias = dense_bias(self, *sizes) if self.use_bias else None
        return multiply(x.astype(self.dtype or x.dtype), kernel, bias)


class DenseHalves(nn.Module):
    """`Dense` whose result is wanted in two halves, by a product each.

    To cut one result in two costs passes over it, most of all in the backward pass,
    where XLA for TPU derives the gradient of the whole again for every use: for v5e it
    expects of a gated MLP 2.2 instead of 3.2 ms (32 images, 1024 tokens of 256).

    Attributes: as for `Conv`; `features` are those of both halves together.
    """

    features: int
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """[..., in] -> [..., features / 2], [..., features / 2]."""
        sizes = (x.shape[-1], self.features)
        kernels = jnp.split(dense_kernel(self, *sizes), 2, axis=1)
        biases = jnp.split(dense_bias(self, *sizes), 2)
        x = x.astype(self.dtype or x.dtype)
        return multiply(x, kernels[0], biases[0]), multiply(x, kernels[1], biases[1])


def dense_kernel(
    module: nn.Module, in_features: int, features: int, zero_init: bool = False
) -> Array:
    """Declares `kernel` [in, out] in the scope of `module`."""
    init = zeros_init if zero_init else kernel_init
    return module.param("kernel", init, (in_features, features))


def dense_bias(
    module: nn.Module, in_features: int, features: int, zero_init: bool = False
) -> Array:
    """Declares `bias` [out] in the scope of `module`, after the kernel."""
    init = zeros_init if zero_init else bias_init(in_features)
    return module.param("bias", init, (features,))


def multiply(x: Array, kernel: Array, bias: Array | None = None) -> Array:
    """[..., in], [in, out], [out] -> [..., out] in the dtype of `x`; rows stay."""
    # With more axes XLA:CPU transposes the gradient before it multiplies, into an order
    # in which that takes twice as long; XLA:TPU lays out less well what has two.
    rows = x.reshape(-1, x.shape[-1]) if traced_for() == "cpu" else x
    y = jnp.dot(rows, kernel.astype(x.dtype))
    y = keep_rows(y.reshape(*x.shape[:-1], kernel.shape[1]))
    return y if bias is None else y + jnp.broadcast_to(bias.astype(x.dtype), y.shape)


class GroupNorm(nn.Module):
    """Group normalisation over (H, W, channels of a group), statistics in float32.

    One pass over the data (E[x^2] - E[x]^2, in float32): measured 1.3x faster than two
    on TPU v5e, and exact enough for float32 parity with the published models.

    Attributes:
      eps: 1e-6 in the first stage and the SpatialTransformer, 1e-5 elsewhere in the
        UNet (the published models differ by place).
      num_groups: must divide the channels.
    """

    eps: float
    num_groups: int = 32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, ..., C] -> the same shape and dtype.

        Raises:
          ValueError: the channels are not a multiple of `num_groups`.
        """
        channels = x.shape[-1]
        if channels % self.num_groups:
            raise ValueError(
                f"GroupNorm needs channels in multiples of num_groups="
                f"{self.num_groups}: got {channels}; change the model's channels or "
                "channel_mult."
            )
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", zeros_init, (channels,))
        x32 = x.astype(jnp.float32).reshape(
            x.shape[0], -1, self.num_groups, channels // self.num_groups
        )
        mean = mean_of_groups(x32)
        mean_square = mean_of_groups(jnp.square(x32))
        variance = jnp.maximum(mean_square - jnp.square(mean), 0.0)
        # Folded into one multiply and one add per element.
        shape = (1, 1, self.num_groups, channels // self.num_groups)
        gain = lax.rsqrt(variance + self.eps) * scale.reshape(shape)
        shift = bias.reshape(shape) - mean * gain
        return (x32 * gain + shift).reshape(x.shape).astype(x.dtype)


def mean_of_groups(x: Array) -> Array:
    """[B, N, groups, C / groups] -> [B, 1, groups, 1]."""
    if traced_for() == "cpu":
        # With both axes at once norm and SiLU take 2 to 3.5x as long (jaxlib 0.10.2).
        return x.mean(1, keepdims=True).mean(3, keepdims=True)
    return x.mean((1, 3), keepdims=True)


class Upsample(nn.Module):
    """Nearest-neighbour doubling followed by a 3x3 convolution, computed as one.

    Doubling repeats rows and columns, so each of the four output phases sees only a
    2x2 neighbourhood: four 2x2 convolutions with summed kernels give the same numbers
    with 2.25x fewer operations.
    """

    features: int
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] -> [B, 2H, 2W, features]."""
        return PhaseConv(self.features, dtype=self.dtype, name="conv")(x)


class PhaseConv(nn.Module):
    """The arithmetic of `Upsample`; parameters are those of a 3x3 `Conv`."""

    features: int
    kernel_size: int = 3
    use_bias: bool = True
    zero_init: bool = False
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] -> [B, 2H, 2W, features]."""
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


def _phases(kernel: Array, axis: int):
    """Splits 3 taps into those of an even and an odd output position, with padding.

    Output 2i sees inputs (i-1, i, i), output 2i+1 sees (i, i, i+1).
    """
    first, middle, last = jnp.split(kernel, 3, axis=axis)
    even = jnp.concatenate([first, middle + last], axis=axis)
    odd = jnp.concatenate([first + middle, last], axis=axis)
    return (even, (1, 0)), (odd, (0, 1))


def double(x: Array) -> Array:
    """Repeats every row and column: [B, H, W, C] -> [B, 2H, 2W, C]."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def halve(x: Array) -> Array:
    """Averages 2x2 blocks: [B, H, W, C] -> [B, H/2, W/2, C]."""
    batch, height, width, channels = x.shape
    blocks = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return blocks.mean(axis=(2, 4))
