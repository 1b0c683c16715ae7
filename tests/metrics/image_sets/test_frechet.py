# SPDX-License-Identifier: Apache-2.0
"""Frechet distance: closed forms, two other implementations, singular covariances."""

import numpy as np
import pytest

from ldm_jax.metrics.image_sets.frechet import (
    FeatureMoments,
    Gaussian,
    frechet_distance,
)
from tests.metrics.features import real_and_fake


def gaussian(rows, batch=64):
    moments = FeatureMoments(rows.shape[1])
    for low in range(0, len(rows), batch):
        moments.update(rows[low : low + batch])
    return moments.gaussian()


def test_moments_in_batches_are_mean_and_covariance_of_the_whole():
    """Oracle: NumPy on all rows at once; the large offset would cost plain sums."""
    rows = real_and_fake()[0] + np.float32(1e3)
    actual = gaussian(rows, batch=7)
    np.testing.assert_allclose(actual.mean, rows.mean(axis=0, dtype=float), rtol=1e-12)
    expected = np.cov(rows.astype(float), rowvar=False)
    np.testing.assert_allclose(actual.covariance, expected, rtol=1e-9, atol=1e-12)
    assert actual.count == len(rows)


def test_merged_moments_are_those_of_both():
    rows = real_and_fake()[0]
    first, second = FeatureMoments(64), FeatureMoments(64)
    first.update(rows[:100])
    second.update(rows[100:])
    first.merge(second)
    first.merge(FeatureMoments(64))
    np.testing.assert_allclose(
        first.gaussian().covariance, gaussian(rows).covariance, rtol=1e-10, atol=1e-13
    )


def test_distance_of_diagonal_gaussians_is_the_closed_form():
    """Oracle: |m|^2 + sum (sqrt a - sqrt b)^2, also where a variance is zero."""
    a, b = np.array([4.0, 1.0, 0.0, 0.25]), np.array([1.0, 0.0, 0.0, 0.25])
    mean = np.array([1.0, 0.0, 2.0, 0.0])
    result = frechet_distance(
        Gaussian(np.zeros(4), np.diag(a)), Gaussian(mean, np.diag(b))
    )
    assert result == pytest.approx(5 + 1 + 1, rel=1e-12)


@pytest.mark.parametrize("count", [600, 40], ids=["full rank", "singular"])
def test_equal_sets_have_distance_zero(count):
    """To rounding of the traces, 64 here, though a root of the product loses half."""
    result = gaussian(real_and_fake()[0][:count])
    assert abs(frechet_distance(result, result)) < 1e-11


# torch-fidelity 0.4.0, fid_statistics_to_metric on float64 features.
GOLDEN = {"full rank": 1.7695707794205973, "singular": 19.549202972601712}


@pytest.mark.parametrize("which, count", [("full rank", 600), ("singular", 40)])
def test_distance_is_torch_fidelitys(which, count):
    """Golden: another implementation on the same features; the issue asks for 1e-4."""
    sets = [gaussian(x[:count]) for x in real_and_fake()]
    assert frechet_distance(*sets) == pytest.approx(GOLDEN[which], rel=1e-6)


@pytest.mark.torch
@pytest.mark.parametrize("count", [600, 40], ids=["full rank", "singular"])
def test_distance_agrees_with_every_other_implementation(count):
    torch = pytest.importorskip("torch")
    metric_fid = pytest.importorskip("torch_fidelity.metric_fid")
    rows = [x[:count].astype(float) for x in real_and_fake()]
    expected = metric_fid.fid_statistics_to_metric(
        *(metric_fid.fid_features_to_statistics(torch.tensor(x)) for x in rows), False
    )
    sets = [gaussian(x) for x in rows]
    actual = frechet_distance(*sets)
    assert actual == pytest.approx(expected["frechet_inception_distance"], rel=1e-6)
    first, second = sets
    for module, name in (
        ("pytorch_fid.fid_score", "calculate_frechet_distance"),
        ("cleanfid.fid", "frechet_distance"),
    ):
        expected = getattr(pytest.importorskip(module), name)(*first[:2], *second[:2])
        assert actual == pytest.approx(expected, rel=1e-5)


def nearly_singular(width=48):
    """Two Gaussians with common axes, variances from 1 to 1e-18, and their distance."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(width, width)))[0]
    a, b = np.logspace(0, -18, width), np.logspace(-1, -16, width)
    mean = 0.1 * rng.normal(size=width)
    sets = (
        Gaussian(np.zeros(width), axes * a @ axes.T),
        Gaussian(mean, axes * b @ axes.T),
    )
    return sets, mean @ mean + np.square(np.sqrt(a) - np.sqrt(b)).sum()


def test_distance_of_nearly_singular_covariances_is_the_closed_form():
    """Oracle: of matrices with common axes, roots are those of the eigenvalues.

    What is below 1e-15 of the largest variance is rounding in the matrix itself, and
    the root of that, 3e-8 a direction, is what may differ.
    """
    sets, expected = nearly_singular()
    assert frechet_distance(*sets) == pytest.approx(expected, rel=1e-6)


@pytest.mark.torch
def test_distance_of_nearly_singular_covariances_agrees_with_pytorch_fid():
    fid_score = pytest.importorskip("pytorch_fid.fid_score")
    (first, second), _ = nearly_singular()
    expected = fid_score.calculate_frechet_distance(*first[:2], *second[:2])
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-4)


def test_what_is_no_set_is_refused():
    moments = FeatureMoments(4)
    with pytest.raises(ValueError, match="at least 2 images: got 0"):
        moments.gaussian()
    with pytest.raises(ValueError, match="features must be finite"):
        moments.update(np.full((2, 4), np.nan))
    ours, other = (Gaussian(np.zeros(d), np.eye(d)) for d in (4, 5))
    with pytest.raises(ValueError, match="same features: got 4 and 5"):
        frechet_distance(ours, other)
