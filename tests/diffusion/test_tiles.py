# SPDX-License-Identifier: Apache-2.0
"""Overlapping tiles: every size covered, seams blended, nothing divided by zero."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldm_jax.diffusion.tiles import _layout, tile_apply, tiled
from ldm_jax.types import Conditioning


@given(st.integers(1, 300), st.integers(1, 100), st.integers(0, 99), st.integers(1, 8))
def test_tiles_cover_any_size_with_positive_weights(size, tile, overlap, scale):
    """Property: also where the original's fold leaves weight 0 (size 100, tile 64)."""
    overlap = min(overlap, tile - 1)
    starts, side, ramp, coverage = _layout(size, tile, overlap, scale)
    assert side == min(tile, size)
    assert starts[0] == 0 and starts[-1] == size - side
    assert all(
        b - a <= side - min(overlap, side - 1) for a, b in itertools.pairwise(starts)
    )
    assert ramp.min() > 0 and ramp.max() <= 1
    assert coverage.min() > 0 and len(coverage) == scale * size


@pytest.mark.parametrize(
    ("shape", "tile", "overlap"),
    [
        ((2, 100, 30, 3), 64, 32),  # 784 pixels of weight 0 in the original
        ((1, 17, 9, 1), (8, 4), (3, 1)),
        ((1, 8, 8, 2), 8, 2),
        ((1, 5, 8, 2), 8, 7),
        ((1, 16, 16, 1), 8, 0),
    ],
)
def test_functions_of_single_elements_are_reproduced(shape, tile, overlap):
    """Identity: tiled equals direct."""
    x = jax.random.normal(jax.random.key(0), shape)
    np.testing.assert_allclose(
        tile_apply(jnp.tanh, x, tile, overlap), jnp.tanh(x), atol=1e-6
    )


def test_a_decoder_is_tiled_at_its_scale():
    """Identity: nearest-neighbour enlargement by 4, another number of channels."""

    def decode(z):
        z = jnp.concatenate([z, z[..., :1]], -1)
        return jnp.repeat(jnp.repeat(z, 4, 1), 4, 2)

    z = jax.random.normal(jax.random.key(0), (2, 13, 10, 2))
    out = tile_apply(decode, z, 8, 3, scale=4)
    assert out.shape == (2, 52, 40, 3)
    np.testing.assert_allclose(out, decode(z), atol=1e-6)


def test_a_denoiser_sees_tiles_of_its_concatenated_condition_too():
    """Identity: a network acting on single elements of z_t and of the condition."""

    def predict(z_t, t, cond):
        assert z_t.shape[1:3] == cond.concat.shape[1:3] == (8, 8)
        context = cond.context.mean((1, 2)) + t
        return z_t * cond.concat + context[:, None, None, None]

    z_t, concat = (
        jax.random.normal(jax.random.key(i), (2, 12, 20, c))
        for i, c in enumerate((3, 1))
    )
    cond = Conditioning(context=jnp.ones((2, 4, 5)), concat=concat)
    out = tiled(predict, 8, 2)(z_t, jnp.array([1, 2]), cond)
    expected = z_t * concat + jnp.array([2.0, 3.0])[:, None, None, None]
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
    plain = tiled(lambda z_t, t, cond: 2 * z_t, 8, 2)
    np.testing.assert_allclose(plain(z_t, None, Conditioning()), 2 * z_t, rtol=1e-5)


def test_seams_are_ramps():
    """Oracle: two tiles of constant 0 and 1 meet in a linear ramp over the overlap."""
    x = jnp.arange(12.0)[None, None, :, None]
    # Each tile says whether it starts past column 0.
    out = tile_apply(
        lambda tile: jnp.zeros_like(tile) + (tile[0, 0, 0, 0] > 0), x, 8, 4
    )
    ramp = [0, 0, 0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1, 1, 1]
    np.testing.assert_allclose(out.ravel(), ramp, atol=1e-6)


def test_the_function_is_compiled_once_whatever_the_number_of_tiles():
    calls = []

    def function(tile):
        calls.append(1)
        return tile

    jax.jit(lambda x: tile_apply(function, x, 4, 1))(jnp.ones((1, 32, 32, 1)))
    assert len(calls) == 2  # its shape, and the scan's body


def test_an_overlap_as_large_as_the_tile_is_refused():
    with pytest.raises(ValueError, match="overlap must be"):
        tile_apply(jnp.tanh, jnp.ones((1, 8, 8, 1)), 4, 4)
