# SPDX-License-Identifier: Apache-2.0
"""Comparing sets with references: figures get worse with the images."""

import json

import numpy as np
import pytest

from ldm_jax.metrics.image_sets.distribution import (
    Collector,
    Figure,
    check_network,
    check_reference,
    label,
    rank_warning,
)
from ldm_jax.metrics.image_sets.frechet import Gaussian
from ldm_jax.metrics.image_sets.reference import (
    Reference,
    load_reference,
    save_reference,
)
from ldm_jax.metrics.paper import PROTOCOLS, ROWS, find_protocol, find_row
from ldm_jax.metrics.tables import markdown
from tests.metrics.features import real_and_fake

SOME = ("fid", "kid", "is", "precision", "recall")
METADATA = {"network": {"kind": "mobilenet", "official": True}, "image_size": [16, 16]}


def collected(rows, metrics=SOME, **fields):
    """Passes rows as features, and a few of their columns as logits."""
    collector = Collector(metrics, len(rows), **fields)
    for low in range(0, len(rows), 100):
        part = rows[low : low + 100]
        collector.update({"pool": part, "logits": part[:, :5], "spatial": part[:, :7]})
    return collector


def test_an_equal_set_is_perfect_and_noise_makes_it_worse():
    real = real_and_fake(16, (300, 10))[0]
    reference = collected(real).reference(METADATA)
    noise = np.random.default_rng(1).normal(size=real.shape).astype(np.float32)
    figures = [collected(real + s * noise).compute(reference) for s in (0, 0.3, 1, 3)]
    assert list(figures[0]) == list(SOME)
    fid, precision = ([f[name].value for f in figures] for name in ("fid", "precision"))
    assert abs(fid[0]) < 1e-10 and fid[1:] == sorted(fid[1:])
    assert precision[0] == 1 and precision == sorted(precision, reverse=True)
    kid = [f["kid"].value for f in figures]
    # Of one and the same sample it is below zero, as it is unbiased for two.
    assert figures[0]["recall"].value == 1 and kid[0] < 0 < kid[2] < kid[3]
    # There is one subset of 300 of 300 images, and it has no scatter.
    assert figures[0]["kid"].spread is None
    assert collected(real[:200], ("kid",)).compute(reference)["kid"].spread > 0


def test_distance_of_two_halves_falls_with_their_size():
    """A Frechet distance is biased upwards: about as 1 / n."""
    halves = real_and_fake(16, (2000, 2000), shift=0)
    distances = []
    for n in (100, 500, 2000):
        first, second = (collected(x[:n], ("fid",)) for x in halves)
        distances.append(second.compute(first.reference(METADATA))["fid"].value)
    assert distances[0] > 2 * distances[1] > 4 * distances[2] > 0


def test_the_jackknife_is_of_the_size_of_the_scatter():
    """Oracle: the spread of the distance over many draws, within a factor of two."""
    rng = np.random.default_rng(0)
    draws = [rng.normal(0.5, 1, (400, 4)).astype(np.float32) for _ in range(30)]
    reference = Reference(Gaussian(np.zeros(4), np.eye(4)), None, None, METADATA)
    distances = [
        collected(x, ("fid",), has_spread=True).compute(reference)["fid"] for x in draws
    ]
    scatter = np.std([figure.value for figure in distances])
    assert (
        scatter / 2 < np.median([figure.spread for figure in distances]) < 2 * scatter
    )


def test_only_the_published_inception_makes_a_fid():
    official = {"kind": "inception", "official": True}
    assert label("fid", official) == "FID" and label("recall", official) == "recall"
    assert label("fid", {**official, "official": False}).startswith("FD(inception, ot")
    mobile = {"kind": "mobilenet", "official": True}
    names = [label(name, mobile) for name in ("fid", "kid", "precision")]
    assert names == ["FD(mobilenet)", "KD(mobilenet)", "precision(mobilenet)"]


def test_a_reference_is_read_back_with_its_metadata(tmp_path):
    made = collected(real_and_fake(16)[0], ("fid", "sfid", "kid"), keep=50)
    reference = made.reference({**METADATA, "transform": {"crop": "center"}})
    path = tmp_path / "ref.npz"
    save_reference(path, reference)
    loaded = load_reference(path)
    np.testing.assert_array_equal(loaded.pool.covariance, reference.pool.covariance)
    np.testing.assert_array_equal(loaded.features, reference.features)
    assert loaded.spatial.mean.shape == (7,) and loaded.pool.count == 600
    assert loaded.features.shape == (50, 16) and loaded.metadata == reference.metadata
    assert loaded.check({**METADATA, "transform": {"crop": "center"}}) == []
    (warning,) = loaded.check({**METADATA, "transform": {"crop": "random"}})
    assert "another crop than those of" in warning
    with pytest.raises(ValueError, match=r"same image_size: got \[32, 32\], but"):
        loaded.check({**METADATA, "image_size": [32, 32]})
    other = {"network": {"kind": "inception", "official": True}}
    with pytest.raises(ValueError, match="same network"):
        loaded.check(other)


def test_other_programs_statistics_are_read_with_a_warning(tmp_path):
    """ADM's batches and pytorch-fid's files: plain mu and sigma, and no word on how."""
    rows = real_and_fake(16)[0].astype(float)
    plain = dict(mu=rows.mean(axis=0), sigma=np.cov(rows, rowvar=False))
    np.savez(tmp_path / "fid.npz", **plain)
    images = np.zeros((3, 8, 8, 3), np.uint8)
    spatial = dict(mu_s=plain["mu"], sigma_s=plain["sigma"])
    np.savez(tmp_path / "adm.npz", arr_0=images, **plain, **spatial)
    loaded = load_reference(tmp_path / "fid.npz")
    assert loaded.spatial is None and not loaded.has_images
    assert "does not say how it was made" in loaded.check(METADATA)[0]
    adm = load_reference(tmp_path / "adm.npz")
    assert adm.has_images and adm.spatial is not None
    figures = collected(rows.astype(np.float32), ("fid",)).compute(loaded)
    assert abs(figures["fid"].value) < 1e-5  # float32 features
    with pytest.raises(ValueError, match="compare features of single images"):
        collected(rows.astype(np.float32)).compute(loaded)
    np.savez(tmp_path / "images.npz", arr_0=images)
    with pytest.raises(ValueError, match="holds only images; make them"):
        load_reference(tmp_path / "images.npz")
    (tmp_path / "broken.npz").write_bytes(b"PK no")
    with pytest.raises(ValueError, match="cannot be read"):
        load_reference(tmp_path / "broken.npz")


def test_too_few_images_are_warned_of_and_unknown_metrics_refused():
    (warning,) = rank_warning(1000, 2048, "the images evaluated")
    assert "(rank 999)" in warning and "comes out too large" in warning
    assert rank_warning(5000, 2048, "x") == [] == rank_warning(0, 2048, "x")
    with pytest.raises(ValueError, match="unknown metrics fidd; some of: fid"):
        Collector(("fidd",), 10)
    with pytest.raises(ValueError, match="compare with a reference: got none"):
        collected(real_and_fake(16)[0]).compute(None)
    with pytest.raises(ValueError, match="sfid needs spatial features"):
        check_network(("fid", "sfid"), ("pool", "logits"))
    check_network(("fid", "is"), ("pool", "logits"))
    check_reference(("is",), None)


def test_every_row_of_the_paper_has_a_protocol_that_measures_it():
    for row in ROWS.values():
        assert set(row.figures) <= {*PROTOCOLS[row.protocol].metrics, "is"}
    assert find_row("imagenet-1.5").figures["fid"] == 3.60
    assert find_row("vq-f8").figures["psnr"] == 23.07
    with pytest.raises(
        ValueError,
        match='unknown row "celeba" of the paper; one of: adm, adm-g, bedrooms',
    ):
        find_row("celeba")
    with pytest.raises(ValueError, match="unknown protocol"):
        find_protocol("paper")


def test_the_table_shows_the_papers_row():
    figures = {"fid": Figure(12.345, 0.5), "recall": Figure(0.4567)}
    result = {
        "row": "churches",
        "num_images": 100,
        "figures": {
            name: {"label": name.upper(), "value": f.value, "spread": f.spread}
            for name, f in figures.items()
        },
        "settings": {"sampling": {"num_steps": 50}},
        "warnings": ["of 100"],
    }
    page = markdown(json.loads(json.dumps(result)))
    assert "| FID | lower is better | 12.35 | 0.5 | 4.02 |" in page
    assert "| RECALL | higher is better | 0.4567 |  | 0.52 |" in page
    assert (
        "* WARNING: of 100" in page and "churches, Tab. 1; IS: README 200 DDIM" in page
    )
