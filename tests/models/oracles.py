# SPDX-License-Identifier: Apache-2.0
"""Random arrays, modules with random parameters, and PyTorch's convolution in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np


def normal(seed, shape):
    """Standard normal float32 numbers."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def torch_conv(x, kernel, bias, stride, padding):
    """Cross-correlation of [H, W, C] in float64; padding as for `Conv`."""
    x = np.pad(np.float64(x), (*padding, (0, 0)))
    size = kernel.shape[0]
    rows = (x.shape[0] - size) // stride + 1
    columns = (x.shape[1] - size) // stride + 1
    y = np.empty((rows, columns, kernel.shape[-1]))
    for i in range(rows):
        for j in range(columns):
            patch = x[i * stride : i * stride + size, j * stride : j * stride + size]
            y[i, j] = np.tensordot(patch, np.float64(kernel), 3) + bias
    return y


def run(module, x):
    """Applies a module with random parameters; returns its output and {leaf: array}."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    params = jax.tree.map(lambda s: normal(s.size, s.shape), shapes)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return module.apply(params, x), {path[-1].key: np.asarray(v) for path, v in leaves}
