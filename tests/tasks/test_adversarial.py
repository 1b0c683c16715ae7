# SPDX-License-Identifier: Apache-2.0
"""The game: closed forms, both networks' gradients from one scalar, the switch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.tasks.adversarial import (
    Adversary,
    GanNetworks,
    adversarial_losses,
    hinge_loss,
    last_layer_norms,
    vanilla_loss,
)
from ldm_jax.tasks.first_stage import first_stage

MODEL = Autoencoder(
    channels=32, channel_mult=(1,), num_res_blocks=1, mid_attention=False
)
RULES = Adversary(disc_start=3, num_layers=1, channels=4)


def test_hinge_and_vanilla_losses():
    """Oracle: by hand, on two logits each."""
    real, fake = jnp.array([2.0, 0.5]), jnp.array([-2.0, 0.5])
    assert float(hinge_loss(real, fake)) == pytest.approx(0.5 * (0.25 + 0.75))
    log = np.log1p
    expected = log(np.exp([-2, -0.5])).mean() + log(np.exp([-2, 0.5])).mean()
    assert float(vanilla_loss(real, fake)) == pytest.approx(0.5 * expected, rel=1e-6)


@pytest.fixture(scope="module")
def game():
    """Random networks and images, made without compiling the initializers."""
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.uniform(-1, 1, (2, 8, 8, 3)), jnp.float32)
    adversary = dict(num_layers=1, channels=4)
    task = first_stage(MODEL, perceptual="none", adversary=adversary)
    shapes = jax.eval_shape(task.init, jax.random.key(0), {"image": image})
    params, stats = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(0, x.size**-0.3, x.shape), x.dtype), shapes
    )
    return params, stats["batch_stats"], image


def nll(image):
    return lambda x_hat: (jnp.sum(jnp.square(image - x_hat)), {})


def total(params, game, step, rules=RULES):
    _, stats, image = game
    out = MODEL.apply({"params": params["autoencoder"]}, image)
    networks = GanNetworks(rules, MODEL, params, stats)
    value, metrics, moved = adversarial_losses(
        networks, image, out, nll(image), jnp.int32(step)
    )
    return value, (metrics, moved)


@pytest.fixture(scope="module")
def played(game):
    """(value, (metrics, stats)), gradients at the step before the start and at it."""
    step = jax.value_and_grad(total, has_aux=True)
    return [step(game[0], game, s) for s in (RULES.disc_start - 1, RULES.disc_start)]


def test_adaptive_weight_equals_two_passes_through_the_whole_model(game, played):
    """Identity: the naive way, two backward passes down to the last kernel."""
    params, stats, image = game

    def terms(kernel):
        decoder = params["autoencoder"]["decoder"]
        decoder = decoder | {"conv_out": decoder["conv_out"] | {"kernel": kernel}}
        tree = params["autoencoder"] | {"decoder": decoder}
        x_hat = MODEL.apply({"params": tree}, image).image
        logits, _ = RULES.apply_discriminator(params["discriminator"], stats, x_hat)
        return nll(image)(x_hat)[0], -jnp.mean(logits)

    kernel = params["autoencoder"]["decoder"]["conv_out"]["kernel"]
    norms = [jnp.linalg.norm(g) for g in jax.jacrev(terms)(kernel)]
    (_, (metrics, _)), _ = played[1]
    expected = RULES.disc_weight * norms[0] / (norms[1] + 1e-4)
    np.testing.assert_allclose(metrics["gan/norm_nll"], norms[0], rtol=1e-4)
    np.testing.assert_allclose(metrics["gan/norm_generator"], norms[1], rtol=1e-4)
    np.testing.assert_allclose(metrics["gan/weight"], expected, rtol=1e-4)


def test_one_scalar_has_the_gradients_of_both_players(game, played):
    """Identity: against each player's own loss, the other held constant."""
    params, stats, image = game
    (_, (metrics, _)), grads = played[1]
    weight = metrics["gan/weight"]

    def generator(tree):
        x_hat = MODEL.apply({"params": tree}, image).image
        logits, _ = RULES.apply_discriminator(params["discriminator"], stats, x_hat)
        return nll(image)(x_hat)[0] - weight * jnp.mean(logits)

    def discriminator(tree):
        x_hat = MODEL.apply({"params": params["autoencoder"]}, image).image
        real, fake = (
            RULES.apply_discriminator(tree, stats, x)[0] for x in (image, x_hat)
        )
        return hinge_loss(real, fake)

    for name, loss in (("autoencoder", generator), ("discriminator", discriminator)):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
            grads[name],
            jax.grad(loss)(params[name]),
        )


def test_the_game_is_silent_until_disc_start(played):
    """The weight is known before; no gradient reaches the discriminator."""
    ((early, (before, moved)), grads), ((late, (after, _)), late_grads) = played
    assert before["gan/active"] == 0 and after["gan/active"] == 1
    assert before["gan/weight"] == after["gan/weight"] > 0
    assert not any(x.any() for x in jax.tree.leaves(grads["discriminator"]))
    assert any(x.any() for x in jax.tree.leaves(late_grads["discriminator"]))
    added = after["gan/weight"] * after["gan/generator"] + after["gan/discriminator"]
    np.testing.assert_allclose(late - early, added, rtol=1e-3, atol=1e-3)
    # The running statistics move from the first step on, as in the original.
    assert jax.tree.leaves(moved)[0].any()


def test_disc_factor_and_disc_weight_scale_their_terms(game, played):
    (one, (plain, _)), _ = played[1]
    rules = Adversary(
        disc_start=3, num_layers=1, channels=4, disc_factor=2.0, disc_weight=1.5
    )
    value, (metrics, _) = total(game[0], game, 3, rules)
    assert metrics["gan/active"] == 2
    np.testing.assert_allclose(
        metrics["gan/weight"], 3 * plain["gan/weight"], rtol=1e-5
    )
    twice = 2 * plain["gan/discriminator"]
    np.testing.assert_allclose(metrics["gan/discriminator"], twice, rtol=1e-5)
    assert value != one


def test_vanilla_adversary_plays_by_its_loss(game):
    rules = Adversary("vanilla", disc_start=0, num_layers=1, channels=4)
    params, stats, image = game
    _, (metrics, _) = total(params, game, 0, rules)
    x_hat = MODEL.apply({"params": params["autoencoder"]}, image).image
    real, fake = (
        rules.apply_discriminator(params["discriminator"], stats, x)[0]
        for x in (image, x_hat)
    )
    expected = vanilla_loss(real, fake)
    np.testing.assert_allclose(metrics["gan/discriminator"], expected, rtol=1e-4)
    correct = 0.5 * (float((real > 0).mean()) + float((fake < 0).mean()))
    assert float(metrics["gan/accuracy"]) == pytest.approx(correct)


def test_running_statistics_move_three_times_a_step(game, played):
    """Fake, real, fake, as the original's passes: 0.9^3 of the old remains."""
    params, stats, image = game
    x_hat = MODEL.apply({"params": params["autoencoder"]}, image).image
    expected = stats
    for x in (x_hat, image, x_hat):
        _, expected = RULES.apply_discriminator(params["discriminator"], expected, x)
    (_, (_, moved)), _ = played[1]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        moved,
        expected,
    )


def test_the_adaptive_weight_costs_little_compared_with_the_decoder(game):
    """The compiler's count: two kernel gradients against one backward pass."""
    params, stats, image = game
    networks = GanNetworks(RULES, MODEL, params, stats)
    out = jax.eval_shape(
        lambda p: MODEL.apply({"params": p}, image), params["autoencoder"]
    )

    def norms(params, out, cotangents):
        return last_layer_norms(networks._replace(params=params), out, cotangents)

    def backward(params):
        x_hat = MODEL.apply({"params": params["autoencoder"]}, image).image
        return jnp.sum(jnp.square(x_hat))

    def flops(function, *args):
        return jax.jit(function).lower(*args).cost_analysis()["flops"]

    weight = flops(norms, params, out, (out.image, out.image))
    assert weight < 0.1 * flops(jax.grad(backward), params)
