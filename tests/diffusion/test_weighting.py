# SPDX-License-Identifier: Apache-2.0
"""The diffusion loss against the original's, and weights against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion import process, weighting
from ldm_jax.diffusion.schedule import make_schedule

SCHEDULE = make_schedule()


def test_distances_average_over_each_sample():
    """Oracle: by hand."""
    prediction, target = jnp.zeros((2, 2, 1, 1)), jnp.array([[1.0, 3], [0, -2]])
    target = target[:, :, None, None]
    np.testing.assert_array_equal(weighting.distance("l1", prediction, target), [2, 1])
    np.testing.assert_array_equal(weighting.distance("l2", prediction, target), [5, 2])
    with pytest.raises(ValueError, match="unknown distance"):
        weighting.distance("l3", prediction, target)


def test_elbo_weights_are_the_originals():
    """Golden: `lvlb_weights` of the original for (0.0015, 0.0195), T = 1000.

    1e-5: differences of float32 numbers near 1, as in the original.
    """
    weights = weighting.elbo_weights(SCHEDULE, "eps")[
        jnp.array([0, 1, 2, 10, 500, 999])
    ]
    expected = [0.50337056, 0.50337056, 0.25252932, 0.05186331, 0.00453941, 0.00994535]
    np.testing.assert_allclose(weights, expected, rtol=1e-5)
    weights = weighting.elbo_weights(SCHEDULE, "x0")[jnp.array([0, 1, 500, 999])]
    expected = [0.49775201, 0.49775201, 0.0899171, 0.00298249]
    np.testing.assert_allclose(weights, expected, rtol=1e-5)
    with pytest.raises(ValueError, match="elbo_weight to 0"):
        weighting.elbo_weights(SCHEDULE, "v")


@pytest.mark.parametrize("kind", weighting.WEIGHTINGS[1:])
def test_snr_weights_mean_the_same_for_every_prediction(kind):
    """Identity: one error, expressed as x0, eps or v, has the same weight."""
    key_0, key_1, key_2 = jax.random.split(jax.random.key(0), 3)
    z_0, eps, other = (
        jax.random.normal(key, (4, 3, 3, 2)) for key in (key_0, key_1, key_2)
    )
    t = jnp.array([3, 300, 700, 999])
    z_t = process.add_noise(SCHEDULE, z_0, t, eps)
    convert = {"x0": process.to_x0, "eps": process.to_eps, "v": process.to_v}
    weighted = []
    for prediction in process.PREDICTIONS:
        target = process.make_target(SCHEDULE, prediction, z_0, t, eps)
        wrong = convert[prediction](SCHEDULE, "v", z_t, t, other)
        losses = weighting.distance("l2", wrong, target)
        weights = weighting.snr_weights(SCHEDULE, kind, prediction)
        weighted.append(weights[t] * losses)
    np.testing.assert_allclose(weighted[1], weighted[0], rtol=2e-3)
    np.testing.assert_allclose(weighted[2], weighted[0], rtol=2e-3)


def test_snr_weights_follow_their_papers():
    """Oracle: min-SNR-gamma for eps is min(SNR, gamma) / SNR; P2 is 1 / (k + SNR)^g."""
    snr = np.exp(np.float64(SCHEDULE.log_snr))
    got = weighting.snr_weights(SCHEDULE, "min_snr", "eps", gamma=3)
    np.testing.assert_allclose(got, np.minimum(snr, 3) / snr, rtol=1e-5)
    got = weighting.snr_weights(SCHEDULE, "p2", "eps", gamma=0.5, k=2)
    np.testing.assert_allclose(got, (2 + snr) ** -0.5, rtol=1e-5)
    got = weighting.snr_weights(SCHEDULE, "uniform", "v")
    np.testing.assert_array_equal(got, np.ones(1000))
    with pytest.raises(ValueError, match="unknown weighting"):
        weighting.snr_weights(SCHEDULE, "snr", "eps")


def test_a_gamma_that_the_weighting_would_ignore_is_refused():
    with pytest.raises(ValueError, match='"uniform" has no gamma: got 5'):
        weighting.snr_weights(SCHEDULE, "uniform", "eps", gamma=5.0)


def test_learned_log_variance_enters_as_in_the_original():
    """Oracle: mean(l * exp(-lv[t]) + lv[t]), plus the weighted bound."""
    losses, t = jnp.array([1.0, 4.0]), jnp.array([0, 2])
    log_variance, elbo = jnp.array([0.5, 9.0, -1.0]), jnp.array([3.0, 9.0, 0.5])
    weights = jnp.array([2.0, 9.0, 1.0])
    loss, metrics = weighting.diffusion_loss(
        losses,
        t,
        weights=weights,
        log_variance=log_variance,
        simple_weight=0.25,
        elbo=elbo,
        elbo_weight=2.0,
    )
    gamma = (2 * np.exp(-0.5) + 0.5 + 4 * np.exp(1) - 1) / 2
    np.testing.assert_allclose(metrics["loss_gamma"], gamma, rtol=1e-6)
    np.testing.assert_allclose(metrics["loss_vlb"], 2.5)
    np.testing.assert_allclose(loss, 0.25 * gamma + 5, rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], loss)
    np.testing.assert_allclose(metrics["log_variance"], 8.5 / 3, rtol=1e-6)


def test_the_best_log_variance_is_the_log_of_the_loss():
    """Oracle: d/dlv (l exp(-lv) + lv) = 0 at lv = ln l."""

    def loss(log_variance):
        losses, t = jnp.array([3.0]), jnp.array([0])
        return weighting.diffusion_loss(losses, t, log_variance=log_variance)[0]

    np.testing.assert_allclose(
        jax.grad(loss)(jnp.log(jnp.array([3.0]))), [0], atol=1e-6
    )


def test_a_bound_without_its_weights_is_refused():
    with pytest.raises(ValueError, match="needs the"):
        weighting.diffusion_loss(jnp.ones(2), jnp.zeros(2, jnp.int32), elbo_weight=1e-3)


@pytest.mark.parametrize("num_bins", [1, 3, 4])
def test_loss_by_bin_averages_to_the_mean_of_each_bin(num_bins):
    """Oracle: with every t once, entries are the plain means, also of uneven bins."""
    t = jnp.arange(10)
    bins = weighting.loss_by_bin(t.astype(jnp.float32), t, 10, num_bins)
    expected = [
        float(np.mean(np.arange(int(name[-9:-5]), int(name[-4:]) + 1))) for name in bins
    ]
    np.testing.assert_allclose(list(bins.values()), expected, rtol=1e-6)
    assert len(bins) == num_bins


def test_a_missed_bin_is_zero_and_too_many_bins_are_refused():
    bins = weighting.loss_by_bin(jnp.ones(2), jnp.array([0, 1]), 1000, 4)
    assert list(bins) == [
        "loss_t/0000-0249",
        "loss_t/0250-0499",
        "loss_t/0500-0749",
        "loss_t/0750-0999",
    ]
    np.testing.assert_array_equal(list(bins.values()), [4, 0, 0, 0])
    with pytest.raises(ValueError, match="num_bins"):
        weighting.loss_by_bin(jnp.ones(2), jnp.array([0, 1]), 3, 4)
