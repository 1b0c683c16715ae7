# SPDX-License-Identifier: Apache-2.0
"""Guidance against its formulas and, on Gaussian data, against Bayes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.guidance import classifier_free, classifier_guidance
from ldm_jax.diffusion.process import per_sample
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.types import Conditioning
from tests.diffusion.oracles import gaussian_denoiser

B = 3
Z_T = jax.random.normal(jax.random.key(0), (B, 4, 4, 2))
T = jnp.array([10, 500, 900])
COND = Conditioning(
    context=jax.random.normal(jax.random.key(1), (B, 5, 2)),
    concat=jax.random.normal(jax.random.key(2), (B, 4, 4, 1)),
    class_label=jnp.array([1, 2, 3]),
)
NULL = jax.tree.map(jnp.zeros_like, COND)


def predict(z_t, t, cond):
    """A network whose rows see every entry of their own condition, z_t and t."""
    bias = cond.context.mean((1, 2)) + cond.class_label + t / 1000
    return jnp.tanh(z_t + cond.concat) + per_sample(bias, z_t) * z_t


@pytest.mark.parametrize("scale", [0.0, 1.5, 7.0, jnp.array([1.0, 3.0, 0.0])])
def test_guided_prediction_follows_its_formula(scale):
    """Oracle: null + scale * (conditional - null), each predicted by itself."""
    guided = classifier_free(predict, COND, NULL, scale)(Z_T, T)
    without, conditional = predict(Z_T, T, NULL), predict(Z_T, T, COND)
    per_row = jnp.broadcast_to(jnp.asarray(scale), (B,))[:, None, None, None]
    expected = without + per_row * (conditional - without)
    np.testing.assert_allclose(guided, expected, rtol=1e-5, atol=1e-5)


def test_scale_1_asks_the_network_once_and_needs_no_null():
    """Oracle: no doubled batch."""
    batches = []

    def counting(z_t, t, cond):
        batches.append(z_t.shape[0])
        return predict(z_t, t, cond)

    out = classifier_free(counting, COND)(Z_T, T)
    np.testing.assert_array_equal(out, predict(Z_T, T, COND))
    classifier_free(counting, COND, NULL, 2.0)(Z_T, T)
    assert batches == [B, 2 * B]


def test_guidance_is_off_outside_its_interval():
    """Oracle: t 10 and 900 as if scale were 1, t 500 guided; ends belong to it."""
    guided = classifier_free(predict, COND, NULL, 3.0)(Z_T, T)
    plain = predict(Z_T, T, COND)
    within = classifier_free(predict, COND, NULL, 3.0, interval=(500, 899))(Z_T, T)
    np.testing.assert_allclose(within[1], guided[1], atol=1e-5)
    np.testing.assert_allclose(within[0], plain[0], atol=1e-5)
    np.testing.assert_allclose(within[2], plain[2], atol=1e-5)
    within = classifier_free(predict, COND, NULL, 3.0, interval=(10, 900))(Z_T, T)
    np.testing.assert_allclose(within, guided, atol=1e-5)


def test_rescaled_guidance_has_the_spread_of_the_conditional_prediction():
    """Oracle: at rescale 1 its standard deviation per sample; halfway at 0.5."""
    guided, half, full = (
        classifier_free(predict, COND, NULL, 5.0, rescale=share)(Z_T, T)
        for share in (0.0, 0.5, 1.0)
    )
    conditional = predict(Z_T, T, COND)
    axes = (1, 2, 3)
    np.testing.assert_allclose(full.std(axes), conditional.std(axes), rtol=1e-4)
    np.testing.assert_allclose(half, (guided + full) / 2, rtol=1e-4, atol=1e-5)


def test_classifier_guidance_turns_a_prior_into_the_posterior():
    """Oracle: Bayes. For data N(mu, 1) and y = z_0 + noise of variance 1, the exact
    log p(y | z_t) turns E[z_0 | z_t] into E[z_0 | z_t, y]."""
    schedule, y, mean = make_schedule(), 2.0, 0.5
    prior = gaussian_denoiser(schedule, mean=mean, std=1.0)

    def log_probability(z_t, t):
        alpha, sigma = (per_sample(level, z_t) for level in schedule.levels(t))
        left = sigma**2 / (alpha**2 + sigma**2)  # variance of z_0 given z_t
        return -((y - prior(z_t, t)) ** 2 / (2 * (left + 1))).sum((1, 2, 3))

    guided = classifier_guidance(schedule, prior, log_probability)(Z_T, T)
    alpha, sigma = (per_sample(level, Z_T) for level in schedule.levels(T))
    precision = 1 + alpha**2 / sigma**2 + 1
    expected = (mean + alpha * Z_T / sigma**2 + y) / precision
    np.testing.assert_allclose(guided, expected, rtol=1e-3, atol=1e-4)
    off = classifier_guidance(schedule, prior, log_probability, jnp.zeros(B))(Z_T, T)
    np.testing.assert_array_equal(off, prior(Z_T, T))


def test_guidance_that_cannot_be_meant_is_refused():
    with pytest.raises(ValueError, match="needs the null"):
        classifier_free(predict, COND, None, 2.0)
    with pytest.raises(ValueError, match="shaped like cond"):
        classifier_free(predict, COND, NULL._replace(context=None), 2.0)
    with pytest.raises(ValueError, match="shaped like cond"):
        classifier_free(predict, COND, jax.tree.map(lambda x: x[:1], NULL), 2.0)
    with pytest.raises(ValueError, match="rescale must be"):
        classifier_free(predict, COND, NULL, 2.0, rescale=1.5)
    with pytest.raises(ValueError, match="swap them"):
        classifier_free(predict, COND, NULL, 2.0, interval=(900, 10))
    with pytest.raises(ValueError, match="turns guidance off"):
        classifier_free(predict, COND, NULL, 1.0, rescale=0.5)
    with pytest.raises(ValueError, match="zero_terminal_snr"):
        zero_snr = make_schedule(zero_terminal_snr=True)
        classifier_guidance(zero_snr, predict, lambda z_t, t: z_t)
