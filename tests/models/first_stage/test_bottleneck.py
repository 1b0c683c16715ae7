# SPDX-License-Identifier: Apache-2.0
"""KL and VQ: closed forms, gradients, ties, and memory."""

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.models.first_stage.bottleneck import (
    KL,
    VQ,
    Pixels,
    kl_divergence,
    split_moments,
)
from ldm_jax.models.first_stage.codes import (
    nearest_code,
)
from tests.models.oracles import normal


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


def test_pixels_pass_unchanged_and_cost_nothing():
    image = normal(0, (1, 2, 2, 3))
    assert Pixels().moments_channels(3) == 3
    assert (Pixels().sample(image, jax.random.key(0)) == image).all()
    assert (Pixels().to_decoder(image)[0] == image).all()
    assert Pixels().penalty(image) == (0.0, {})
