# SPDX-License-Identifier: Apache-2.0
"""Reconstruction metrics against values worked out by hand."""

import jax.numpy as jnp
import numpy as np

from ldm_jax.metrics.reconstruction import psnr


def test_psnr_of_a_constant_error():
    image = jnp.zeros((2, 4, 4, 3))
    errors = jnp.asarray([0.2, 0.02])[:, None, None, None] * jnp.ones_like(image)
    # 20 log10(2 / 0.2) and ten times closer, 20 dB more.
    np.testing.assert_allclose(psnr(image, image + errors), [20, 40], rtol=1e-5)


def test_psnr_clamps_as_a_picture_does_and_is_infinite_for_equal_images():
    image = jnp.ones((1, 4, 4, 3))
    assert jnp.isinf(psnr(image, image + 5)).all()
