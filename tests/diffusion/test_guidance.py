# SPDX-License-Identifier: Apache-2.0
"""Guidance against its formulas and, on Gaussian data, against Bayes."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.guidance import (
    classifier_free,
    classifier_guidance,
    image_guidance,
)
from ldm_jax.diffusion.process import per_sample, x0_denoiser
from ldm_jax.diffusion.samplers import SAMPLERS
from ldm_jax.diffusion.samplers.base import run_sampler
from ldm_jax.diffusion.samplers.grid import make_timesteps
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.models.unet import UNet
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
    """A network in which each row depends on its whole condition, z_t and t."""
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


def test_scale_1_calls_the_network_once_and_needs_no_null():
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


@pytest.mark.parametrize("t, rows", [(500, 2 * B), (10, B)])
def test_a_step_outside_the_interval_does_not_compute_the_null_half(t, rows):
    """Identity: the batches that the network is run on, in a compiled scan."""
    batches = []

    def observed(z_t, t, cond):
        jax.debug.callback(lambda z_t: batches.append(len(z_t)), z_t)
        return predict(z_t, t, cond)

    within = classifier_free(observed, COND, NULL, 3.0, interval=(400, 600))
    jax.block_until_ready(jax.jit(within)(Z_T, jnp.full(B, t)))
    jax.effects_barrier()
    assert batches == [rows]


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


@pytest.mark.parametrize(
    ("t", "by_eps", "by_mean"),
    [
        (1, 0.0015090, 0.0007525),
        (10, 0.0015805, 0.0014331),
        (500, 0.0079951, 0.0079549),
        (999, 0.0196930, 0.0194999),
    ],
)
def test_the_two_forms_move_the_mean_of_ddpm_by_the_published_amounts(
    t, by_eps, by_mean
):
    """Oracle: beta_t / sqrt(alpha_t), and the posterior variance, for gradient 1."""
    schedule = make_schedule(start=0.0015, end=0.0195)
    following = jnp.arange(schedule.num_timesteps) - 1
    z_t, keys = jnp.zeros((1, 1, 1, 1)), jax.random.split(jax.random.key(0), 1)
    sampler = SAMPLERS["ddpm"](schedule, temperature=0.0)

    def mean(next_step):
        denoiser = classifier_guidance(
            schedule,
            lambda z_t, t: 0 * z_t,
            lambda z_t, t: z_t.sum((1, 2, 3)),
            next_step=next_step,
        )
        leg = {"t": jnp.int32(t), "s": jnp.int32(t - 1)}
        state, _ = sampler.step(denoiser, {"z": z_t}, leg, keys)
        return float(state["z"][0, 0, 0, 0])

    assert mean(None) == pytest.approx(by_eps, rel=2e-4)
    assert mean(following) == pytest.approx(by_mean, rel=2e-4)


def linear_observation():
    """(matrix A [3, 32], y [B, 3]): an image of three numbers of a latent."""
    rng = np.random.default_rng(3)
    size = Z_T[0].size
    matrix = jnp.float32(rng.normal(size=(3, size)) / size**0.5)
    return matrix, jnp.float32(rng.normal(size=(B, 3)))


def test_image_guidance_adds_the_gradient_of_the_paper():
    """Oracle: Eq. 18 for linear D and T and Gaussian data, written out.

    x0 + s sigma^2 / alpha * J A' (y - A x0),  J = alpha v / (alpha^2 v + sigma^2)
    """
    schedule, scale, std = make_schedule(), 0.7, 0.5
    matrix, y = linear_observation()
    prior = gaussian_denoiser(schedule, mean=0.3, std=std)

    def error(x0):
        return y - x0.reshape(B, -1) @ matrix.T

    def log_likelihood(x0, t):
        return -0.5 * jnp.square(error(x0)).sum(1)

    guided = image_guidance(schedule, prior, log_likelihood, scale)(Z_T, T)
    alpha, sigma = (per_sample(level, Z_T) for level in schedule.levels(T))
    x0 = prior(Z_T, T)
    pull = scale * sigma**2 / alpha * (error(x0) @ matrix).reshape(x0.shape)
    slope = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
    np.testing.assert_allclose(guided, x0 + slope * pull, rtol=1e-4, atol=1e-5)
    by_decoder = image_guidance(
        schedule, prior, log_likelihood, scale, through_network=False
    )
    np.testing.assert_allclose(
        by_decoder(Z_T, T), x0 + pull / alpha, rtol=1e-4, atol=1e-5
    )
    # One step leads towards y.
    before, after = (jnp.square(error(x)).sum(1) for x in (x0, guided))
    assert (after < before + 1e-6).all()


def sampled_posterior(y, variance, mean, num):
    """Samples N(mean, 1) seen as y with noise, guided by the exact likelihood."""
    schedule = make_schedule()
    prior = gaussian_denoiser(schedule, mean=mean, std=1.0)

    def log_likelihood(x0, t):
        alpha, sigma = (per_sample(level, x0) for level in schedule.levels(t))
        left = sigma**2 / (alpha**2 + sigma**2)  # variance of z_0 given z_t
        return -((y - x0) ** 2 / (2 * (left + variance))).sum((1, 2, 3))

    denoiser = image_guidance(schedule, prior, log_likelihood)
    timesteps = make_timesteps(1000, schedule.num_timesteps, "even")
    z_T = jax.random.normal(jax.random.key(0), (num, 1, 1, 1))
    sampler = SAMPLERS["ddim"](schedule)
    return run_sampler(sampler, denoiser, z_T, timesteps, jax.random.key(1))


def test_image_guidance_reaches_the_posterior_with_the_exact_variance():
    """Oracle: Bayes. 1/v = 1 + 1/variance, m = v (mean + y / variance)."""
    y, variance, mean = 2.0, 0.04, 0.5
    z_0 = sampled_posterior(y, variance, mean, 2000)
    v = 1 / (1 + 1 / variance)
    # 2,000 numbers of deviation 0.2: standard error 0.004 of the mean, 0.003 of it.
    assert abs(z_0.mean() - v * (mean + y / variance)) < 0.02
    assert abs(z_0.std() - v**0.5) < 0.015


def test_steep_image_guidance_reproduces_what_is_seen():
    """Identity: with D = T = 1 and almost no noise nothing of the prior is left."""
    y = jnp.linspace(-1, 1, 64).reshape(64, 1, 1, 1)
    z_0 = sampled_posterior(y, 1e-6, 0.0, 64)
    np.testing.assert_allclose(z_0, y, atol=0.03)


def test_image_guidance_runs_the_network_once_and_can_be_off():
    """Identity: scale 0, and steps outside of the interval, equal no guidance."""
    schedule, calls = make_schedule(), []
    prior = gaussian_denoiser(schedule)

    def counted(z_t, t):
        calls.append(1)
        return prior(z_t, t)

    def log_likelihood(x0, t):
        return -jnp.square(x0).sum((1, 2, 3))

    for through in (True, False):
        calls.clear()
        image_guidance(schedule, counted, log_likelihood, through_network=through)(
            Z_T, T
        )
        assert len(calls) == 1
    off = image_guidance(schedule, prior, log_likelihood, 0)
    np.testing.assert_array_equal(off(Z_T, T), prior(Z_T, T))
    outside = image_guidance(schedule, prior, log_likelihood, 3.0, interval=(950, 999))
    # The network's gradient is computed along, which rounds differently.
    np.testing.assert_allclose(outside(Z_T, T), prior(Z_T, T), rtol=1e-6)


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
    with pytest.raises(ValueError, match=r"image_guidance.*zero_terminal_snr"):
        image_guidance(zero_snr, predict, lambda x0, t: x0)
    with pytest.raises(ValueError, match="swap them"):
        image_guidance(make_schedule(), predict, lambda x0, t: x0, interval=(9, 1))


def test_keys_and_values_of_the_context_are_computed_once_a_trajectory():
    """Identity: the compiled loop over steps holds no product with the context.

    XLA moves what does not change out of the loop, so the samplers need no code for it.
    """
    unet = UNet(
        channels=32,
        channel_mult=(1,),
        out_channels=2,
        attention_levels=(0,),
        num_heads=1,
        transformer_depth=1,
        context_dim=48,
    )
    context = jnp.ones((B, 5, 48))
    params = jax.eval_shape(
        unet.init, jax.random.key(0), Z_T, T, Conditioning(context)
    )["params"]

    def sample(params, z_T, context):
        def network(z_t, t, cond):
            return unet.apply({"params": params}, z_t, t, cond)

        cond, null = Conditioning(context), Conditioning(0 * context)
        schedule = make_schedule()
        denoiser = x0_denoiser(schedule, classifier_free(network, cond, null, 3.0))
        sampler, key = SAMPLERS["ddim"](schedule), jax.random.key(0)
        return run_sampler(sampler, denoiser, z_T, make_timesteps(4), key)

    program = jax.jit(sample).lower(params, Z_T, context).compile().as_text()
    entry = program[program.index("\nENTRY ") :]
    (body,) = set(re.findall(r" while\(.*body=%?([\w.-]+)", program))
    loop = program[program.index(f"\n%{body} (") :].partition("\n}")[0]
    queries, keys = "attn_2/q/dot_general", "attn_2/k/dot_general"
    assert queries in loop and keys not in loop
    assert keys in entry
