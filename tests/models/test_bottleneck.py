# SPDX-License-Identifier: Apache-2.0
"""KL and VQ: closed forms, gradients, ties, and memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.models.bottleneck import (
    CODES_PER_BLOCK,
    KL,
    VQ,
    Pixels,
    code_usage,
    kl_divergence,
    nearest_code,
    remap_indices,
    restore_indices,
    split_moments,
)


def normal(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_kl_is_that_of_two_gaussians():
    """Oracle: ln(1/s) + (s^2 + m^2) / 2 - 1/2 per element, summed."""
    mean, deviation = 0.7, 1.6
    moments = jnp.full((2, 3, 4, 2), mean).at[..., 1].set(2 * np.log(deviation))
    expected = -np.log(deviation) + (deviation**2 + mean**2) / 2 - 0.5
    np.testing.assert_allclose(kl_divergence(moments), 12 * expected, rtol=1e-5)
    penalty, metrics = KL().penalty(moments)
    np.testing.assert_allclose(penalty, 12 * expected, rtol=1e-5)
    assert metrics["kl"] == penalty


def test_posterior_samples_have_its_mean_and_deviation():
    """Oracle: 20,000 draws; standard errors 0.007 and 0.005."""
    moments = jnp.full((1, 100, 200, 2), 2.0).at[..., 1].set(0.0)
    z = KL().sample(moments, jax.random.key(0))
    assert abs(float(z.mean()) - 2.0) < 0.03 and abs(float(z.std()) - 1.0) < 0.02
    assert (KL().sample(moments) == 2.0).all()


def test_log_variance_is_clamped():
    moments = jnp.array([0.0, 0.0, -99.0, 99.0]).reshape(1, 1, 1, 4)
    _, log_variance = split_moments(moments)
    assert log_variance.ravel().tolist() == [-30.0, 20.0]


def test_nearest_code_agrees_with_all_distances_in_float64():
    """Oracle; the codebook is not a multiple of the block."""
    z, codebook = normal(0, (2, 5, 3, 4)), normal(1, (2 * CODES_PER_BLOCK + 7, 4))
    exact = np.asarray(z, np.float64)[..., None, :] - np.asarray(codebook, np.float64)
    expected = np.square(exact).sum(-1).argmin(-1)
    assert (nearest_code(z, codebook) == expected).all()


def test_the_first_of_equal_codes_is_taken():
    """Also when they lie in different blocks."""
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


def test_gradient_passes_straight_through_quantization():
    z, codebook, cotangent = normal(0, (1, 2, 2, 3)), normal(1, (8, 3)), 3.0
    z_q, indices = VQ().to_decoder(z, codebook)
    np.testing.assert_allclose(z_q, codebook[indices], atol=1e-6)
    grads = jax.grad(
        lambda z, c: cotangent * VQ().to_decoder(z, c)[0].sum(), argnums=(0, 1)
    )(z, codebook)
    assert (grads[0] == cotangent).all() and not grads[1].any()


def test_legacy_beta_moves_the_weight_from_one_gradient_to_the_other():
    """Paper: equal values; the encoder's gradient x4, the codebook's x1/4."""
    z, codebook = normal(0, (1, 4, 4, 3)), normal(1, (8, 3))
    indices = nearest_code(z, codebook)

    def both(legacy):
        def loss(z, codebook):
            return VQ(0.25, legacy).penalty(z, indices, codebook)[0]

        return jax.value_and_grad(loss, argnums=(0, 1))(z, codebook)

    (legacy, (by_z, by_codes)), (fixed, (fixed_z, fixed_codes)) = (
        both(True),
        both(False),
    )
    np.testing.assert_allclose(legacy, fixed, rtol=1e-6)
    np.testing.assert_allclose(by_z, 4 * fixed_z, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(by_codes, fixed_codes / 4, rtol=1e-5, atol=1e-8)
    half = VQ(0.5).penalty(z, indices, codebook)[0]
    np.testing.assert_allclose(half, legacy * 1.5 / 1.25, rtol=1e-6)


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


def test_pixels_pass_unchanged_and_cost_nothing():
    image = normal(0, (1, 2, 2, 3))
    assert Pixels().moments_channels(3) == 3
    assert (Pixels().sample(image, jax.random.key(0)) == image).all()
    assert (Pixels().to_decoder(image)[0] == image).all()
    assert Pixels().penalty(image) == (0.0, {})
