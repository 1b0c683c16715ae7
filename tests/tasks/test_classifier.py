# SPDX-License-Identifier: Apache-2.0
"""The classifier's task against closed forms."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.classifier import LatentClassifier
from ldm_jax.tasks.classifier import (
    NoisyLatentClassifier,
    classify_held_out,
    classify_latents,
    held_out_figures,
)

NETWORK = LatentClassifier(
    num_classes=7,
    channels=32,
    channel_mult=(1,),
    latent_channels=2,
    latent_size=4,
    num_res_blocks=1,
    head_channels=16,
    pool="adaptive",
)


def make_model(network=NETWORK, scale=2.0):
    return NoisyLatentClassifier(
        Autoencoder(channels=32, channel_mult=(1, 1), latent_channels=2),
        scale,
        classifier=network,
        schedule=make_schedule(),
    )


# +1 and -1 like a chessboard: what is constant over positions, norms may remove.
BOARD = np.broadcast_to(1 - 2 * (np.indices((4, 4)).sum(0) % 2)[..., None], (4, 4, 2))


def batch_of(size=512, seed=0):
    """Latents of two classes, a chessboard and its negative (raw: half of that)."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, size).astype(np.int32)
    mean = (label - 0.5)[:, None, None, None] * BOARD
    moments = np.concatenate([mean, np.full_like(mean, -30)], axis=-1)
    return {"moments": jnp.asarray(moments, jnp.float32), "label": jnp.asarray(label)}


class Exact(nn.Module):
    """The posterior's logits: plus and minus alpha sum(z * board) / sigma^2."""

    schedule: object

    @nn.compact
    def __call__(self, z_t, t, is_training=False):
        alpha, sigma = self.schedule.levels(t)
        evidence = alpha / sigma**2 * (z_t * BOARD[None]).sum((1, 2, 3))
        return jnp.stack([-evidence, evidence], axis=-1)


def loss_of(task, params, batch, key=1):
    return jax.jit(task.loss)(params, {"frozen": ()}, batch, jax.random.key(key), 0)


def test_a_head_of_zeros_loses_the_logarithm_of_the_classes():
    """Oracle: a uniform guess over K classes costs ln K nats."""
    task = classify_latents(make_model())
    batch = batch_of(8)
    params, collections = task.init(jax.random.key(0), batch)
    assert collections == {} and sorted(params) == ["classifier"]
    loss, (metrics, _) = loss_of(task, params, batch)
    np.testing.assert_allclose(loss, np.log(7), rtol=1e-6)
    assert metrics["loss"] == loss and 0 <= metrics["accuracy"] <= 1


def test_the_exact_posterior_names_classes_as_often_as_noise_allows():
    """Oracle: over t, the share of sign errors is that of N(alpha, sigma^2 / 32)."""
    model = make_model()
    model = dataclasses.replace(model, classifier=Exact(model.schedule))
    _, (metrics, _) = loss_of(
        classify_latents(model), {"classifier": {}}, batch_of(8192)
    )
    alpha, sigma = (np.asarray(x) for x in model.schedule.levels(jnp.arange(1000)))
    right = jax.scipy.stats.norm.cdf(alpha / sigma * 32**0.5).mean()
    # 8192 samples: a standard error below 0.004.
    np.testing.assert_allclose(metrics["accuracy"], right, atol=0.015)
    assert metrics["accuracy_5"] == 1


def test_held_out_latents_are_named_as_often_as_each_noise_level_allows():
    """Oracle: at t, the share of right signs is that of N(alpha, sigma^2 / 32)."""
    model = make_model()
    model = dataclasses.replace(model, classifier=Exact(model.schedule))
    rows = [(batch_of(4096, seed), 4096) for seed in (1, 2)]
    wrong = batch_of(4096, seed=3)
    wrong["label"] = 1 - wrong["label"]  # of rows that only fill up the last batch
    rows.append((wrong, 0))
    figures = classify_held_out(model, {"classifier": {}}, rows)
    assert held_out_figures(model) == tuple(figures)
    levels = np.arange(0, 1000, 100)
    assert [f"accuracy_t/{t:04d}" for t in levels] == [n for n in figures if "/" in n]
    alpha, sigma = (np.asarray(x) for x in model.schedule.levels(jnp.asarray(levels)))
    expected = jax.scipy.stats.norm.cdf(alpha / sigma * 32**0.5)
    shares = [figures[f"accuracy_t/{t:04d}"] for t in levels]
    # 8192 samples: a standard error of 0.006 at most.
    np.testing.assert_allclose(shares, expected, atol=0.02)
    assert shares[0] == 1 and shares[-1] < 0.75
    np.testing.assert_allclose(figures["accuracy"], np.mean(shares), rtol=1e-6)
    assert figures["accuracy_5"] == 1 and 0 < figures["loss"] < np.log(2)
    assert classify_held_out(model, {"classifier": {}}, rows) == figures


def test_training_finds_the_classes():
    network = dataclasses.replace(NETWORK, pool="attention")
    task = classify_latents(make_model(network))
    batch = batch_of(64)
    params, _ = task.init(jax.random.key(0), batch)
    optimizer = optax.adam(1e-2)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, key):
        grad, (metrics, _) = jax.grad(
            lambda p: task.loss(p, {}, batch, key, 0), has_aux=True
        )(params)
        updates, state = optimizer.update(grad, state)
        return optax.apply_updates(params, updates), state, metrics["loss"]

    losses = []
    for i in range(40):
        params, state, loss = step(params, state, jax.random.key(i))
        losses.append(float(loss))
    assert np.mean(losses[-5:]) < 0.6 < losses[0]  # the exact posterior: about 0.35


@pytest.mark.parametrize("label", [0, 6])
def test_log_probabilities_are_those_of_the_logits(label):
    model = make_model()
    z_t, t = jnp.ones((2, 4, 4, 2)), jnp.array([0, 999])
    network = dataclasses.replace(NETWORK, pool="attention")
    model = dataclasses.replace(model, classifier=network)
    params = {"classifier": network.init(jax.random.key(0), z_t, t)["params"]}
    logits = np.asarray(model.logits(params, z_t, t), np.float64)
    expected = logits[:, label] - np.log(np.exp(logits).sum(-1))
    ours = model.log_probability(params, z_t, t, jnp.full(2, label))
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
