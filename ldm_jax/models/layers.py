# SPDX-License-Identifier: Apache-2.0
"""Convolution, linear, normalisation and resampling layers shared by every network.

Defaults follow PyTorch, in which the published models were trained: weights and biases
are drawn from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), padding is explicit. Parameters are
float32; `dtype` is the dtype of the arithmetic.
"""

from collections.abc import Callable
from typing import TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Float

from ldm_jax.models.attention.attention import traced_for
from ldm_jax.models.placement import keep_rows
from ldm_jax.types import Array, DType

# ((top, bottom), (left, right)).
Padding = tuple[tuple[int, int], tuple[int, int]]

ModuleClass = TypeVar("ModuleClass", bound=type[nn.Module])

# U(-1/sqrt(fan_in), 1/sqrt(fan_in)), the default of torch.nn.Conv2d and Linear.
kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
zeros_init = nn.initializers.zeros

# Values that the backward pass of a block recomputes: none, all, or all but the outputs
# of convolutions (normalisation and activation are cheap, convolutions are not).
REMAT_POLICIES = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "convs": jax.checkpoint_policies.save_only_these_names("conv"),
}


def rematerialize(
    block: ModuleClass, policy: str, static_argnums: tuple[int, ...] = (2,)
) -> ModuleClass:
    """Wraps a block so that its backward pass recomputes instead of storing.

    Args:
      block: module class; its parameters keep their names.
      policy: a key of `REMAT_POLICIES`.
      static_argnums: positions of Python values among the arguments of `__call__`
        (0 is `self`); the default is for (x, is_training).
    """
    if policy == "none":
        return block
    return nn.remat(block, policy=REMAT_POLICIES[policy], static_argnums=static_argnums)


def bias_init(fan_in: int) -> Callable[..., Array]:
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
      padding: ((top, bottom), (left, right)); None pads `kernel_size // 2` each.
      use_bias: whether a bias is added.
      zero_init: start from a zero kernel and bias, so that a residual branch is zero.
      dtype: dtype of the arithmetic and of the output; None takes the input's.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    padding: Padding | None = None
    use_bias: bool = True
    zero_init: bool = False
    dtype: DType | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"]
    ) -> Float[Array, "B out_H out_W {self.features}"]:
        """Convolves an image or a grid of features."""
        kernel, bias = conv_params(self, x.shape[-1])
        half = self.kernel_size // 2
        padding = ((half, half), (half, half)) if self.padding is None else self.padding
        dtype = self.dtype or x.dtype
        y = convolve(x.astype(dtype), kernel.astype(dtype), self.stride, padding)
        y = checkpoint_name(y, "conv")
        return y if bias is None else y + bias.astype(dtype)[None, None, None]


def conv_params(
    module: nn.Module, in_features: int
) -> tuple[Float[Array, "k k {in_features} out"], Float[Array, " out"] | None]:
    """Declares `kernel` and, with `use_bias`, `bias` in the scope of `module`.

    Args:
      module: has the fields kernel_size, features, use_bias and zero_init of `Conv`.
      in_features: channels of the input.
    """
    size, out = module.kernel_size, module.features
    fan_in = size * size * in_features
    init_kernel = zeros_init if module.zero_init else kernel_init
    kernel = module.param("kernel", init_kernel, (size, size, in_features, out))
    if not module.use_bias:
        return kernel, None
    init_bias = zeros_init if module.zero_init else bias_init(fan_in)
    return kernel, module.param("bias", init_bias, (out,))


def convolve(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "k_H k_W C out"],
    stride: int,
    padding: Padding,
) -> Float[Array, "B out_H out_W out"]:
    """Convolves (cross-correlates) with one stride for both directions."""
    return lax.conv_general_dilated(
        jnp.asarray(x),
        jnp.asarray(kernel),
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


class Dense(nn.Module):
    """Linear map of the last axis with PyTorch's initialization.

    Attributes: as for `Conv`.
    """

    features: int
    use_bias: bool = True
    zero_init: bool = False
    dtype: DType | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*n C"]) -> Float[Array, "*n {self.features}"]:
        """Applies the map to the last axis."""
        sizes = (x.shape[-1], self.features, self.zero_init)
        kernel = dense_kernel(self, *sizes)
        bias = dense_bias(self, *sizes) if self.use_bias else None
        return multiply(x.astype(self.dtype or x.dtype), kernel, bias)


class DenseHalves(nn.Module):
    """Computes the two halves of a `Dense` result, with one product for each.

    Splitting one result costs passes over it, most of all in the backward pass, where
    XLA for TPU computes the gradient of the whole again for every use. By its cost
    model for v5e, a gated MLP takes 2.2 instead of 3.2 ms (32 images, 1024 tokens of
    256 channels).

    Attributes: as for `Conv`; `features` counts those of both halves together.
    """

    features: int
    dtype: DType | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "*n C"]
    ) -> tuple[
        Float[Array, "*n {self.features}//2"], Float[Array, "*n {self.features}//2"]
    ]:
        """Applies both maps to the last axis."""
        sizes = (x.shape[-1], self.features)
        kernels = jnp.split(dense_kernel(self, *sizes), 2, axis=1)
        biases = jnp.split(dense_bias(self, *sizes), 2)
        x = x.astype(self.dtype or x.dtype)
        return multiply(x, kernels[0], biases[0]), multiply(x, kernels[1], biases[1])


def dense_kernel(
    module: nn.Module, in_features: int, features: int, zero_init: bool = False
) -> Float[Array, "{in_features} {features}"]:
    """Declares `kernel` in the scope of `module`."""
    init = zeros_init if zero_init else kernel_init
    return module.param("kernel", init, (in_features, features))


def dense_bias(
    module: nn.Module, in_features: int, features: int, zero_init: bool = False
) -> Float[Array, " {features}"]:
    """Declares `bias` in the scope of `module`, after the kernel."""
    init = zeros_init if zero_init else bias_init(in_features)
    return module.param("bias", init, (features,))


def multiply(
    x: Float[Array, "*n C"],
    kernel: Float[Array, "C out"],
    bias: Float[Array, " out"] | None = None,
) -> Float[Array, "*n out"]:
    """Computes x @ kernel + bias in the dtype of `x`; rows stay on their devices."""
    # With more than two axes, XLA:CPU transposes the gradient before the product, into
    # an order that takes twice as long; with two, XLA:TPU chooses a worse layout.
    rows = x.reshape(-1, x.shape[-1]) if traced_for() == "cpu" else x
    y = jnp.dot(rows, kernel.astype(x.dtype))
    y = keep_rows(y.reshape(*x.shape[:-1], kernel.shape[1]))
    return y if bias is None else y + jnp.broadcast_to(bias.astype(x.dtype), y.shape)


class GroupNorm(nn.Module):
    """Group normalisation over (H, W, channels of a group), statistics in float32.

    One pass over the data (E[x^2] - E[x]^2, in float32): measured 1.3x faster than two
    on TPU v5e, and exact enough to match the published models in float32.

    Attributes:
      eps: 1e-6 in the first stage and the SpatialTransformer, 1e-5 elsewhere in the
        UNet (the published models differ by place).
      num_groups: must divide the channels.
    """

    eps: float
    num_groups: int = 32

    @nn.compact
    def __call__(self, x: Float[Array, "B *n C"]) -> Float[Array, "B *n C"]:
        """Normalises each sample; keeps the dtype.

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


def mean_of_groups(
    x: Float[Array, "B N groups width"],
) -> Float[Array, "B 1 groups 1"]:
    """Averages over the positions and channels of each group."""
    if traced_for() == "cpu":
        # With both axes at once, norm and SiLU take 2 to 3.5x as long (jaxlib 0.10.2).
        return x.mean(1, keepdims=True).mean(3, keepdims=True)
    return x.mean((1, 3), keepdims=True)
