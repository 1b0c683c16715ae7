# SPDX-License-Identifier: Apache-2.0
"""Inception score, kernel distance, precision and recall, density and coverage."""

import numpy as np
import pytest

from ldm_jax.metrics.codebook import CodebookUsage
from ldm_jax.metrics.image_sets import manifold
from ldm_jax.metrics.image_sets.inception_score import InceptionScore
from ldm_jax.metrics.image_sets.kernel import kernel_distance
from ldm_jax.metrics.image_sets.manifold import density_coverage, precision_recall
from ldm_jax.metrics.image_sets.reservoir import Reservoir
from tests.metrics.features import real_and_fake


def score(logits, batch=64, **fields):
    metric = InceptionScore(len(logits), **fields)
    for low in range(0, len(logits), batch):
        metric.update(logits[low : low + batch])
    return metric.result()


def test_inception_score_of_sure_and_of_empty_answers():
    """Oracle: K certain, equally frequent classes score K; no information scores 1."""
    sure = 100.0 * np.eye(5)[np.arange(1000) % 5]
    mean, spread = score(sure, num_splits=1)
    assert mean == pytest.approx(5, rel=1e-9) and spread == 0
    assert score(np.zeros((100, 7)))[0] == pytest.approx(1, rel=1e-12)


def some_logits():
    return 3 * np.random.default_rng(1).normal(size=(1003, 50)).astype(np.float32)


# torch-fidelity 0.4.0: isc_features_to_metric; kid_features_to_metric (20 subsets of
# 100); prc_features_to_metric. prdc 0.2: compute_prdc, k = 5.
SCORE = (8.580477164, 0.301533822)
KERNEL = (0.03443971306, 0.0183734666)
PRECISION_RECALL = (0.74272728, 0.751538455)
DENSITY_COVERAGE = (0.614363636, 0.613076923)


def test_metrics_of_sets_are_those_of_other_implementations():
    """Golden: the same features through torch-fidelity and prdc."""
    assert score(some_logits()) == pytest.approx(SCORE, rel=1e-6)
    real, fake = real_and_fake()
    result = kernel_distance(fake, real, num_subsets=20, subset_size=100)
    assert result == pytest.approx(KERNEL, rel=1e-6)
    # In 8 dimensions, where balls are neither all empty nor all full.
    real, fake = real_and_fake(8, (1300, 1100), 0.5)
    assert precision_recall(real, fake) == pytest.approx(PRECISION_RECALL, rel=1e-6)
    assert density_coverage(real, fake) == pytest.approx(DENSITY_COVERAGE, rel=1e-6)


@pytest.mark.torch
def test_metrics_of_sets_agree_with_torch_fidelity():
    torch = pytest.importorskip("torch")
    pytest.importorskip("torch_fidelity")
    from torch_fidelity import metric_isc, metric_kid, metric_prc

    reference = metric_isc.isc_features_to_metric(torch.tensor(some_logits()))
    assert score(some_logits()) == pytest.approx(tuple(reference.values()), rel=1e-6)
    real, fake = real_and_fake()
    reference = metric_kid.kid_features_to_metric(
        *(torch.tensor(x.astype(float)) for x in (fake, real)),
        **dict(kid_subsets=20, kid_subset_size=100, rng_seed=2020, verbose=False),
        **dict(kid_kernel="poly", kid_kernel_poly_degree=3, kid_kernel_poly_coef0=1),
        kid_kernel_poly_gamma=None,
    )
    actual = kernel_distance(fake, real, num_subsets=20, subset_size=100)
    assert actual == pytest.approx(tuple(reference.values()), rel=1e-6)
    real, fake = real_and_fake(8, (1300, 1100), 0.5)
    reference = metric_prc.prc_features_to_metric(
        *(torch.tensor(x).double() for x in (fake, real)),
        **dict(prc_neighborhood=3, prc_batch_size=500, save_cpu_ram=True),
        verbose=False,
    )
    actual = precision_recall(real, fake)
    assert actual == pytest.approx(
        (reference["precision"], reference["recall"]), rel=1e-6
    )


@pytest.mark.torch
def test_metrics_of_sets_agree_with_prdc_and_clean_fid():
    """Of a subset that is the whole set nothing is drawn, so nothing is random."""
    prdc = pytest.importorskip("prdc")
    fid = pytest.importorskip("cleanfid.fid")
    first, second = real_and_fake(64, (500, 500))
    reference = fid.kernel_distance(
        *(x.astype(float) for x in (first, second)), num_subsets=1
    )
    actual = kernel_distance(first, second, num_subsets=1, subset_size=500)
    assert actual[0] == pytest.approx(reference, rel=1e-6)
    real, fake = real_and_fake(8, (1300, 1100), 0.5)
    for k, measure, names in (
        (3, precision_recall, ("precision", "recall")),
        (5, density_coverage, ("density", "coverage")),
    ):
        reference = prdc.compute_prdc(real, fake, nearest_k=k)
        expected = [reference[name] for name in names]
        assert measure(real, fake, k=k) == pytest.approx(expected, rel=1e-6)


def test_copies_and_a_single_mode_are_distinguished():
    """Copies are precise and reach everything; one mode is precise and does not."""
    real = real_and_fake(8, (600, 10))[0]
    assert precision_recall(real, real.copy()) == (1, 1)
    assert density_coverage(real, real.copy())[1] == 1
    rng = np.random.default_rng(0)
    mode = real[:1] + 1e-3 * rng.normal(size=(500, 8)).astype(np.float32)
    precision, recall = precision_recall(real, mode)
    assert precision == 1 and recall < 0.02
    far = real + 100
    assert precision_recall(real, far) == (0, 0)
    assert density_coverage(real, far) == (0, 0)


def test_blocks_do_not_change_precision_and_recall(monkeypatch):
    real, fake = real_and_fake(8, (300, 250), 0.5)
    whole = precision_recall(real, fake), density_coverage(real, fake)
    monkeypatch.setattr(manifold, "BLOCK", 64)
    assert (precision_recall(real, fake), density_coverage(real, fake)) == whole


def test_kernel_distance_of_equal_distributions_is_about_zero():
    """Unbiased: the mean over subsets is within its standard error of zero."""
    first, second = real_and_fake(16, (1000, 1000), shift=0)
    mean, spread = kernel_distance(first, second, num_subsets=50, subset_size=100)
    assert abs(mean) < spread
    assert kernel_distance(first, second + 1, num_subsets=5, subset_size=100)[0] > 0.1


def test_too_few_images_are_refused():
    few = np.zeros((3, 4), np.float32)
    with pytest.raises(ValueError, match="more than 3 images in each set: got 3"):
        precision_recall(few, few)
    with pytest.raises(ValueError, match="subsets of 10 images"):
        kernel_distance(few, few, subset_size=10)
    with pytest.raises(ValueError, match="10 splits needs as many images: got 3"):
        InceptionScore(3)
    metric = InceptionScore(10)
    metric.update(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="got 10, and 4 images"):
        metric.result()
    with pytest.raises(ValueError, match="got 10, and more images"):
        metric.update(np.zeros((7, 3)))


def test_a_reservoir_is_a_uniform_sample_whatever_the_batches():
    stream = np.arange(1000)[:, None]
    kept = []
    for batch in (1, 64):
        reservoir = Reservoir(100, seed=3)
        for low in range(0, 1000, batch):
            reservoir.update(stream[low : low + batch])
        kept.append(reservoir.rows()[:, 0])
    np.testing.assert_array_equal(*kept)
    assert len(set(kept[0])) == 100
    # The mean of 100 of 0..999 has a standard error of 27.
    assert abs(kept[0].mean() - 499.5) < 100
    short = Reservoir(100)
    short.update(stream[:10])
    np.testing.assert_array_equal(short.rows(), stream[:10])


def test_codebook_usage_counts_over_all_batches():
    usage = CodebookUsage(8)
    for codes in ([[0, 1]], [[0, 1]], [[1, 0]]):
        usage.update(np.array(codes))
    assert usage.result() == pytest.approx({"codebook_usage": 0.25, "perplexity": 2.0})
