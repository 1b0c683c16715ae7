# SPDX-License-Identifier: Apache-2.0
"""Layers that halve or double, against PyTorch's definitions in NumPy float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.models.resampling import AsymmetricDownsample, Upsample, double, halve
from tests.models.oracles import normal, run, torch_conv


@pytest.mark.parametrize("size", [(6, 8), (7, 5)])
def test_first_stage_downsample_pads_below_and_right_only(size):
    """Oracle, at even and odd sizes; "SAME" has another shape at odd ones."""
    x = normal(0, (1, *size, 3))
    y, leaves = run(AsymmetricDownsample(4), x)
    expected = torch_conv(x[0], leaves["kernel"], leaves["bias"], 2, ((0, 1), (0, 1)))
    assert y.shape[1:3] == (size[0] // 2, size[1] // 2)
    np.testing.assert_allclose(y[0], expected, atol=1e-4)


def test_upsample_equals_doubling_then_a_3x3_convolution():
    """Identity: the four phases against the plain way, borders included."""
    x = normal(0, (2, 3, 5, 4))
    y, leaves = run(Upsample(6), x)
    for n in range(2):
        doubled = x[n].repeat(2, 0).repeat(2, 1)
        padding = ((1, 1), (1, 1))
        plain = torch_conv(doubled, leaves["kernel"], leaves["bias"], 1, padding)
        np.testing.assert_allclose(y[n], plain, atol=1e-4)


def test_double_repeats_pixels_and_halve_averages_them():
    """Oracle: torch's nearest x2 and bilinear x0.5 (jax.image.resize blurs more)."""
    x = normal(0, (1, 4, 6, 2))
    assert (double(x) == x.repeat(2, 1).repeat(2, 2)).all()
    blocks = np.asarray(x).reshape(1, 2, 2, 3, 2, 2).mean((2, 4))
    np.testing.assert_allclose(halve(x), blocks, atol=1e-6)
    np.testing.assert_allclose(halve(double(x)), x, atol=1e-6)
    blurred = jax.image.resize(x, (1, 2, 3, 2), "bilinear")
    assert float(jnp.abs(blurred - halve(x)).max()) > 0.05


def test_nearest_downsampling_is_a_slice_and_not_jax_image_resize():
    """Oracle: torch takes pixel floor(i k), jax.image.resize half-pixel centres."""
    x = jnp.arange(256.0).reshape(16, 16)
    assert x[::4, ::4][0].tolist() == [0, 4, 8, 12]
    assert jax.image.resize(x, (4, 4), "nearest")[0].tolist() == [34, 38, 42, 46]
