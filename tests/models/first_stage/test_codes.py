# SPDX-License-Identifier: Apache-2.0
"""Nearest codes, their usage and renumbering: closed forms, ties, and memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.first_stage.codes import (
    CODES_PER_BLOCK,
    code_usage,
    nearest_code,
    remap_indices,
    restore_indices,
)
from tests.models.oracles import normal


def test_nearest_code_agrees_with_all_distances_in_float64():
    """Oracle; the codebook is not a multiple of the block."""
    z, codebook = normal(0, (2, 5, 3, 4)), normal(1, (2 * CODES_PER_BLOCK + 7, 4))
    exact = np.asarray(z, np.float64)[..., None, :] - np.asarray(codebook, np.float64)
    expected = np.square(exact).sum(-1).argmin(-1)
    assert (nearest_code(z, codebook) == expected).all()


def test_the_first_of_equal_codes_is_taken():
    """Also when they are in different blocks."""
    codebook = jnp.ones((2 * CODES_PER_BLOCK, 2)).at[:3].set(5.0)
    assert (nearest_code(jnp.ones((1, 2, 2, 2)), codebook) == 3).all()


def test_nearest_code_never_holds_all_distances():
    """Every intermediate of 16,384 codes x 4 latents of 32x32 stays in a block."""
    z, codebook = jnp.zeros((4, 32, 32, 4)), jnp.zeros((16_384, 4))
    stats = jax.jit(nearest_code).lower(z, codebook).compile().memory_analysis()
    everything = 4 * 32 * 32 * 16_384 * 4
    assert stats.temp_size_in_bytes < everything / 8


def test_nearest_code_is_found_in_float32_for_bfloat16_vectors():
    """Codes 1e-3 apart are one number in bfloat16."""
    codebook = jnp.array([[1.0], [1.001], [1.002]])
    z = jnp.array([[1.0]], jnp.bfloat16)
    assert nearest_code(z, codebook).tolist() == [0]


def test_code_usage_counts_codes_and_their_entropy():
    """Oracle: n codes used evenly have perplexity n."""
    even = code_usage(jnp.arange(8).reshape(2, 2, 2) % 4, num_codes=16)
    assert float(even["codes_used"]) == 4
    assert float(even["perplexity"]) == pytest.approx(4, rel=1e-5)
    one = code_usage(jnp.zeros((2, 2), jnp.int32), num_codes=16)
    assert float(one["codes_used"]) == 1
    assert float(one["perplexity"]) == pytest.approx(1, rel=1e-5)


def test_remapped_indices_come_back():
    used = jnp.array([3, 9, 4])
    indices = jnp.array([[4, 9], [3, 7]])
    positions = remap_indices(indices, used, unknown=3)
    assert positions.tolist() == [[2, 1], [0, 3]]
    # The extra id stands for no code; the original gives it the first one.
    assert restore_indices(positions, used).tolist() == [[4, 9], [3, 3]]


@pytest.mark.parametrize("code_range", [None, 0.5])
def test_codes_begin_evenly_within_their_range(code_range):
    """Closed form: a uniform distribution's bound and deviation, bound / sqrt(3)."""
    fields = dict(num_codes=512, latent_channels=4, code_range=code_range)
    model = Autoencoder(bottleneck="vq", channels=32, channel_mult=(1, 1), **fields)
    variables = model.init(jax.random.key(0), method="codes")
    codes = variables["params"]["codebook"]["embedding"]
    bound = code_range or 1 / 512
    assert 0.99 * bound < abs(codes).max() <= bound
    np.testing.assert_allclose(jnp.std(codes), bound / np.sqrt(3), rtol=0.03)
