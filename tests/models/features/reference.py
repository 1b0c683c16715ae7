# SPDX-License-Identifier: Apache-2.0
"""Feature networks with random weights under the published names."""

import jax
import numpy as np
from flax import traverse_util

from ldm_jax.interop.feature_networks import weights
from tests.metrics.features import published_tensors


def features(kind, image):
    """Looks at an image through random weights under the published names."""
    flat = weights.convert_feature_network(kind, published_tensors(kind))
    module = weights.make_network(kind, weights.PUBLISHED[kind].origin)
    params = traverse_util.unflatten_dict(flat, sep="/")
    return jax.device_get(
        jax.jit(lambda p, x: module.apply({"params": p}, x))(params, image)
    )


def an_image(height, width):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (2, height, width, 3)).astype(np.uint8)
