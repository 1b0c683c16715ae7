# SPDX-License-Identifier: Apache-2.0
# What pyright is to know of flax.linen: the names that are used here. Three types are
# wider than the package's own: `init` and `apply` take any key and return Any, without
# the tuple that only `mutable=` gives; `remat` takes this file's Module; `max_pool` any
# padding.
from typing import Any, TypeVar

import jax
from flax.linen.activation import (
    leaky_relu,
    log_softmax,
    relu,
    sigmoid,
    silu,
    softmax,
    softplus,
    swish,
)
from flax.linen.attention import dot_product_attention
from flax.linen.linear import Conv, Dense, Embed
from flax.linen.module import Module as _Module
from flax.linen.module import Variable, compact
from flax.linen.normalization import BatchNorm, GroupNorm, LayerNorm
from flax.linen.pooling import avg_pool
from flax.linen.stochastic import Dropout
from jax.nn import initializers

__all__ = (
    "BatchNorm",
    "Conv",
    "Dense",
    "Dropout",
    "Embed",
    "GroupNorm",
    "LayerNorm",
    "Module",
    "Variable",
    "avg_pool",
    "compact",
    "dot_product_attention",
    "initializers",
    "leaky_relu",
    "log_softmax",
    "max_pool",
    "relu",
    "remat",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "swish",
)

class Module(_Module):
    def init(self, rngs: Any, *args: Any, **options: Any) -> Any: ...
    def apply(self, variables: Any, *args: Any, **options: Any) -> Any: ...

_Target = TypeVar("_Target")

def remat(target: _Target, **options: Any) -> _Target: ...
def max_pool(
    inputs: Any, window_shape: Any, strides: Any = ..., padding: Any = ...
) -> jax.Array: ...
