# SPDX-License-Identifier: Apache-2.0
"""InceptionV3 against torch-fidelity's port of the graph of 2015."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.models.features.inception import InceptionV3, resize_bilinear
from ldm_jax.models.features.mobilenet import MobileNetV2
from tests.models.features.reference import an_image, features

# torch-fidelity 0.4.0 with the tensors of `published_tensors`: the first three and the
# mean of pool, spatial features and unbiased logits of `an_image(40, 56)[0]`.
GOLDEN = {
    "pool": ([0.281787, 0.0199201, 3.05412], 1.3116319),
    "spatial": ([0.0, 0.0, 0.0], 0.13353942),
    "logits": ([-0.270007, -0.193069, -0.271221], 0.056450083),
}


def test_inception_is_the_graph_of_2015():
    """Golden: pools, resize and logits as torch-fidelity's port of the graph."""
    result = features("inception", an_image(40, 56)[:1])
    for name, (first, mean) in GOLDEN.items():
        values = result[name][0]
        np.testing.assert_allclose(values[:3], first, rtol=1e-4, atol=1e-5)
        assert values.mean(dtype=float) == pytest.approx(mean, rel=1e-5)


def test_resize_takes_pixels_where_tensorflow_1_did():
    """Oracle: 4 -> 8 puts output pixel i at i / 2, and repeats the last pixel."""
    row = jnp.arange(4.0)[None, None, :, None] * jnp.ones((1, 4, 1, 1))
    result = resize_bilinear(row, 8)[0, 0, :, 0]
    np.testing.assert_allclose(result, [0, 0.5, 1, 1.5, 2, 2.5, 3, 3])
    np.testing.assert_allclose(resize_bilinear(row, 2)[0, 0, :, 0], [0, 2])


def test_networks_have_the_published_sizes():
    """Paper: 21.8M and 2.2M parameters before the last layer, its logits besides."""
    counts = {}
    for kind, module in (("inception", InceptionV3()), ("mobilenet", MobileNetV2())):
        image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.uint8)
        shapes = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
        counts[kind] = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    # Convolutions and one bias per channel, and logits (inception's have no bias).
    assert counts["inception"] == 21_768_352 + 2_048 * 1_008
    assert counts["mobilenet"] == 2_206_816 + 1_280 * 1_000 + 1_000
