# SPDX-License-Identifier: Apache-2.0
"""Features to compare, and files of random weights for the networks that make some."""

import numpy as np

from ldm_jax.interop.feature_networks import lpips_file, weights
from ldm_jax.interop.safetensors import write_safetensors


def real_and_fake(width=64, sizes=(600, 500), shift=0.1):
    """Two correlated, half-positive sets, as pooled ReLUs are: [N, D], [M, D]."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(width, width)) / width**0.5
    return [
        np.maximum(rng.normal(size=(n, width)) @ mix + 0.3 + s, 0).astype(np.float32)
        for n, s in zip(sizes, (0, shift), strict=True)
    ]


def published_tensors(kind):
    """Random tensors under the published names, seeded by their order."""
    rng = np.random.default_rng(0)
    origin = weights.PUBLISHED[kind].origin
    tensors = {}
    for path, shape in weights.network_shapes(kind, origin).items():
        names = weights.published_tensors(kind, path)
        if len(names) == 1:
            size = shape[::-1]
            tensors[names[0]] = rng.normal(0, 0.02, size).astype(np.float32)
        elif path.endswith("kernel"):
            spread = (2 / np.prod(shape[:3])) ** 0.5
            kernel = rng.normal(0, spread, [shape[i] for i in (3, 2, 0, 1)])
            tensors[names[0]] = kernel.astype(np.float32)
            for name, low, high in zip(
                names[1:],
                (0.8, -0.1, -0.1, 0.5),
                (1.2, 0.1, 0.1, 1.5),
                strict=True,
            ):
                values = rng.uniform(low, high, shape[3])
                tensors[name] = values.astype(np.float32)
    return tensors


def write_feature_network(path, kind="mobilenet", official=True):
    """Writes a file of random weights that calls itself the published one."""
    flat = weights.convert_feature_network(kind, published_tensors(kind))
    header = {"ldm_jax": kind, "origin": weights.PUBLISHED[kind].origin}
    header |= {"sha256": "0" * 64, "official": str(official)}
    write_safetensors(path, flat, header)
    return path


def write_lpips(path, seed):
    """Writes a file of random SqueezeNet LPIPS weights."""
    rng = np.random.default_rng(seed)
    tensors = {
        f"squeeze/{name}": rng.normal(0, 0.1, shape).astype(np.float32)
        for name, shape in lpips_file.trunk_shapes("squeeze").items()
    }
    write_safetensors(path, tensors)
    return str(path)
