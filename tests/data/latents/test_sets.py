# SPDX-License-Identifier: Apache-2.0
"""Sets of latents open as one: mixtures, buckets, and the metadata of both."""

import json

import numpy as np
import pytest

from ldm_jax.data.latents.sets import open_latent_sets, pool, write_bucket_names
from ldm_jax.data.latents.source import LatentTransform, open_latents
from ldm_jax.data.latents.statistics import LatentSums
from ldm_jax.data.latents.write import write_latents
from ldm_jax.data.loader import make_batches
from tests.data.latents.test_write import Keep, Squares, encode, job, write


class Wide(Squares):
    """4x8 images."""

    fingerprint = "wide"

    def __init__(self, length=10):
        super().__init__(length)
        self.images = np.concatenate([self.images + 1] * 2, axis=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sets a (20 squares), b (8 squares), wide (10); buckets of a and wide."""
    root = tmp_path_factory.mktemp("sets")
    write(root / "a")
    write(root / "b", Squares(8))
    for name, source in (("4x4", Squares()), ("4x8", Wide())):
        write_latents(encode, source, Keep(), root / "buckets" / name, job())
    write_bucket_names(root / "buckets", ["4x4", "4x8"])
    return root


def test_one_set_opens_as_before(folder):
    source, stats, shapes = open_latent_sets(folder / "a")
    assert stats == open_latents(folder / "a")[1] and shapes == ((2, 2, 3),)
    assert len(source) == 20


def test_sets_are_mixed_by_weight(folder):
    both = f"{folder}/a, {folder}/b"
    source, stats, shapes = open_latent_sets(both, (1, 3))
    assert len(source) == 28 and shapes == ((2, 2, 3),) and stats.count == 28
    batches = make_batches(source, LatentTransform(), 10)
    second = [i >= 20 for step in range(100) for i in batches.records(step)]
    assert sum(second) == 750
    assert open_latent_sets(both)[0].quotas == [714, 286]  # 20 : 8


def test_every_batch_of_buckets_has_one_shape(folder):
    source, stats, shapes = open_latent_sets(folder / "buckets")
    assert shapes == ((2, 2, 3), (2, 4, 3)) and stats.count == 30
    batches = make_batches(source, LatentTransform(), 4)
    batch_shapes = {batches(step)["moments"].shape for step in range(10)}
    assert batch_shapes == {(4, 2, 2, 6), (4, 2, 4, 6)}


def test_the_metadata_of_a_mixture_is_that_of_its_draws():
    """Oracle: pooled by hand from all values, one of the sets taken twice."""
    rng = np.random.default_rng(0)
    values = [rng.normal(k, 1 + k, (400, 2, 2, 1)) for k in (0, 1)]
    stats = [stats_of(x) for x in values]
    mixed = pool(stats, (2, 1))
    drawn = np.concatenate([values[0], values[0], values[1]])
    np.testing.assert_allclose(mixed.mean, drawn.mean(), rtol=1e-6)
    np.testing.assert_allclose(mixed.std, drawn.std(), rtol=1e-6)
    assert mixed.scale == 1 / mixed.std and mixed.count == 800
    alone = pool(stats[:1], (1,))
    np.testing.assert_allclose(alone.scale_error, stats[0].scale_error, rtol=1e-9)


def test_the_standard_error_of_a_mixtures_scale_is_right():
    """Oracle: the spread of the scale over many pairs of sets."""
    rng = np.random.default_rng(0)
    scales, errors = [], []
    for _ in range(300):
        parts = [stats_of(s * rng.normal(size=(100, 2, 2, 1))) for s in (1, 3)]
        mixed = pool(parts, (1, 1))
        scales.append(mixed.scale)
        errors.append(mixed.scale_error)
    assert abs(np.mean(errors) / np.std(scales) - 1) < 0.15  # 300 pairs: 4 % plus bias


def stats_of(values):
    from ldm_jax.data.latents.statistics import LatentStats

    moments = LatentSums()
    moments.add(values, 1)
    fields = dict(
        f=2, latent_shape=(2, 2, 1), autoencoder="a", images="i", transform={}
    )
    return LatentStats(**moments.result(), **fields)


@pytest.mark.parametrize(
    ("directory", "weights", "words"),
    [
        ("{0}/a,{0}/buckets/4x8", None, "must have one shape: got"),
        ("{0}/a,{0}/b", (1,), "one positive number for each set"),
        ("{0}/a", (1,), "need a mixture"),
        ("{0}/a,{0}/c", None, "c is not there"),
        ("{0}/a,{0}/other", None, "must have one first stage: .*other was written by"),
        ("{0}/climbing", None, "which is not a sub-folder"),
    ],
)
def test_what_does_not_fit_is_refused(folder, directory, weights, words):
    if not (folder / "other").exists():
        write(folder / "other", autoencoder="b2")
        (folder / "climbing").mkdir()
        content = json.dumps({"buckets": ["../a"]})
        (folder / "climbing" / "buckets.json").write_text(content)
    with pytest.raises(ValueError, match=words):
        open_latent_sets(directory.format(folder), weights)


def test_latents_on_an_object_store_are_read_by_a_package_or_refused():
    import importlib.util

    if importlib.util.find_spec("gcsfs"):
        pytest.skip("gcsfs is installed")
    for opener in (open_latents, open_latent_sets):
        with pytest.raises(ValueError, match=r"gs://b/z needs a package.*ldm_jax.gcs"):
            opener("gs://b/z")
