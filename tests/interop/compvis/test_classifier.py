# SPDX-License-Identifier: Apache-2.0
"""Classifiers under the original's names: the list of LDM-8-G, golden files, errors."""

import gzip
import json
import pathlib

import jax
import numpy as np
import pytest

from ldm_jax.interop.compvis.classifier import (
    classifier_rows,
    export_classifier,
    import_classifier,
)
from ldm_jax.interop.layouts import NamesDiffer, expected_shapes
from ldm_jax.models.classifier import POOLS, LatentClassifier
from tests.golden import denoiser as golden
from tests.models.test_classifier import LDM8, TINY, from_original, param_shapes

KEYS = pathlib.Path(__file__).parent.parent / "keys" / "classifier-ldm8.json.gz"


def drawn(model, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), param_shapes(model)
    )


def test_names_and_shapes_are_those_of_the_papers_classifier():
    """Golden: the state dict of the original class with LDM-8's settings."""
    expected = json.loads(gzip.decompress(KEYS.read_bytes()))
    shapes = expected_shapes(classifier_rows(LatentClassifier(**LDM8)), "compvis")
    assert {name: list(shape) for name, shape in shapes.items()} == expected


@pytest.mark.parametrize("pool", ["attention", "spatial"])
def test_golden_weights_are_imported_as_the_golden_test_reads_them(pool):
    """Golden: the names of the original, which hold the weights of the golden file."""
    _, record = golden.load(f"classifier-{pool}")
    model = from_original(record["meta"])
    rename = lambda names, keys: golden.classifier_weight(names, keys, model)  # noqa: E731
    expected = golden.fill(param_shapes(model), rename, record["keys"])
    weights = {name: golden.tensor(name, record["keys"]) for name in record["keys"]}
    jax.tree.map(
        np.testing.assert_array_equal, import_classifier(weights, model), expected
    )


@pytest.mark.parametrize("pool", POOLS)
def test_a_classifier_comes_back_from_its_export(pool):
    """Identity; the Lightning module's prefix and its diffusion model are left out."""
    model = LatentClassifier(**{**TINY, "attention_levels": (0,), "pool": pool})
    params = drawn(model)
    state = export_classifier(params, model)
    stored = {f"model.{name}": array for name, array in state.items()}
    stored["diffusion_model.betas"] = np.zeros(3)
    back = import_classifier(stored, model)
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_tensors_that_do_not_fit_are_named():
    model = LatentClassifier(**TINY)
    state = export_classifier(drawn(model), model)
    with pytest.raises(NamesDiffer, match=r"left over: out\.9"):
        import_classifier({**state, "out.9": np.zeros(1)}, model)
    del state["out.2.positional_embedding"]
    with pytest.raises(NamesDiffer, match=r"missing: out\.2\.positional_embedding"):
        import_classifier(state, model)
