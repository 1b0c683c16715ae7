# SPDX-License-Identifier: Apache-2.0
"""The forward process, conversions between predictions, and the posterior."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm_jax.diffusion import process
from ldm_jax.diffusion.schedule import make_schedule
from tests.golden.denoiser import load

SCHEDULE = make_schedule()
CONVERSIONS = {"x0": process.to_x0, "eps": process.to_eps, "v": process.to_v}


def draw(seed, batch=3):
    keys = jax.random.split(jax.random.key(seed))
    z_0, eps = (jax.random.normal(key, (batch, 2, 2, 1)) for key in keys)
    return z_0, eps


def test_add_noise_is_the_originals_q_sample():
    """Golden: the original's q_sample."""
    arrays, _ = load("tiny-celeba256")
    z_0, t, eps = (jnp.asarray(arrays[name]) for name in ("x0", "t", "noise"))
    z_t = process.add_noise(SCHEDULE, z_0, t, eps)
    np.testing.assert_allclose(z_t, arrays["q_sample"], rtol=1e-6, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(
    t=st.integers(0, 999),
    seed=st.integers(0, 99),
    given_as=st.sampled_from(process.PREDICTIONS),
    target=st.sampled_from(process.PREDICTIONS),
)
def test_any_prediction_converts_to_any_other(t, seed, given_as, target):
    """Identity: the true z_0, eps and v, each found from each."""
    z_0, eps = draw(seed)
    t = jnp.full((3,), t)
    z_t = process.add_noise(SCHEDULE, z_0, t, eps)
    value, expected = (
        process.make_target(SCHEDULE, name, z_0, t, eps) for name in (given_as, target)
    )
    got = CONVERSIONS[target](SCHEDULE, given_as, z_t, t, value)
    # 1 / alpha is 84 at most and 1 / sigma 26: as many float32 roundings of about 3.
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_x0_denoiser_converts_what_a_network_predicts():
    """Identity: networks that say the truth in their own way all give z_0."""
    z_0, eps = draw(0)
    t = jnp.array([0, 500, 999])
    z_t = process.add_noise(SCHEDULE, z_0, t, eps)
    for prediction in process.PREDICTIONS:
        truth = process.make_target(SCHEDULE, prediction, z_0, t, eps)
        denoiser = process.x0_denoiser(SCHEDULE, lambda z, t, x=truth: x, prediction)
        np.testing.assert_allclose(denoiser(z_t, t), z_0, atol=1e-4)


def test_posterior_agrees_with_bayes():
    """Oracle: the product of q(z_{t-1} | z_0) and q(z_t | z_{t-1}), both Gaussian."""
    z_0, eps = draw(1)
    t = jnp.array([1, 400, 999])
    z_t = process.add_noise(SCHEDULE, z_0, t, eps)
    mean, log_variance = process.posterior(SCHEDULE, z_0, z_t, t)
    beta = np.float64(SCHEDULE.betas[t])[:, None, None, None]
    before = np.float64(SCHEDULE.alphas_cumprod[t - 1])[:, None, None, None]
    precision = (1 - beta) / beta + 1 / (1 - before)
    expected = np.sqrt(1 - beta) / beta * z_t + np.sqrt(before) / (1 - before) * z_0
    np.testing.assert_allclose(mean, expected / precision, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(log_variance, -np.log(precision), rtol=1e-4)


def test_posterior_at_the_first_step_is_z_0():
    """Oracle: z_{-1} is z_0 itself, with log-variance cut off at ln 1e-20."""
    z_0, eps = draw(2)
    mean, log_variance = process.posterior(SCHEDULE, z_0, eps, jnp.zeros(3, jnp.int32))
    np.testing.assert_allclose(mean, z_0, rtol=1e-6)
    np.testing.assert_allclose(log_variance, np.log(1e-20), rtol=1e-6)


def test_calls_that_cannot_be_meant_are_refused(unchecked_shapes):
    z_0, eps = draw(3)
    t = jnp.zeros(3, jnp.int32)
    with pytest.raises(ValueError, match="one step per sample"):
        process.add_noise(SCHEDULE, z_0, jnp.int32(3), eps)
    with pytest.raises(ValueError, match="shape of z_0"):
        process.add_noise(SCHEDULE, z_0, t, eps[:1])
    with pytest.raises(ValueError, match="unknown prediction"):
        process.make_target(SCHEDULE, "epsilon", z_0, t, eps)
    zero_snr = make_schedule(zero_terminal_snr=True)
    with pytest.raises(ValueError, match="zero_terminal_snr"):
        process.x0_denoiser(zero_snr, lambda z_t, t: z_t, "eps")
