# SPDX-License-Identifier: Apache-2.0
"""A prepared set cannot have a module imported that its files name."""

import json
import sys

import pytest

from ldm_jax.data.images.image_sets import open_images
from ldm_jax.data.latents.source import open_latents
from ldm_jax.data.tfds_sets import check_features, open_tfds
from ldm_jax.files.errors import UnreadableFile

TFDS = "tensorflow_datasets.core.features"


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A module in the working directory that leaves a mark when it is imported."""
    (tmp_path / "trap_of_the_test.py").write_text("open('mark', 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "mark"
    sys.modules.pop("trap_of_the_test", None)


@pytest.fixture
def prepared(tmp_path):
    """A prepared set, as TFDS writes it."""
    open_images("digits", "test", str(tmp_path / "sets"))
    return tmp_path / "sets" / "digits" / "1.0.0"


BAD = "trap_of_the_test.Image"
INNER = {"features": {"features": {"image": {"pythonClassName": BAD}}}}
FORMS = {
    "outermost": {"pythonClassName": BAD},
    "proto name": {"python_class_name": BAD},
    "within": {"pythonClassName": f"{TFDS}.features_dict.FeaturesDict", **INNER},
    "legacy": {"type": BAD, "content": "{}"},
    "legacy within": {
        "type": f"{TFDS}.features_dict.FeaturesDict",
        "content": json.dumps({"image": {"type": BAD, "content": "{}"}}),
    },
    "json feature": {
        "pythonClassName": f"{TFDS}.features_dict.FeaturesDict",
        "jsonFeature": {"json": json.dumps({"a": json.dumps({"type": BAD})})},
    },
    "a script of TFDS": {"pythonClassName": "tensorflow_datasets.scripts.cli.main.X"},
    "a look-alike": {"pythonClassName": f"{TFDS}x.Image"},
    "no module": {"pythonClassName": "os"},
}


@pytest.mark.parametrize("form", FORMS)
def test_names_outside_of_tfds_are_refused_before_it_sees_the_set(prepared, trap, form):
    (prepared / "features.json").write_text(json.dumps(FORMS[form]))
    for open_set in (
        open_tfds,
        lambda path: open_images(str(path), "test"),
        lambda path: open_images("digits", "test", str(path.parent.parent)),
    ):
        with pytest.raises(UnreadableFile, match=r"features\.json must name features"):
            open_set(prepared)
    assert not trap.exists()


def test_a_set_of_latents_is_opened_without_its_features(prepared, trap):
    (prepared / "features.json").write_text(json.dumps(FORMS["outermost"]))
    with pytest.raises(UnreadableFile, match="not one of latents"):
        open_latents(prepared)
    assert not trap.exists()


def test_features_of_tfds_are_accepted(prepared):
    check_features(prepared)
    assert open_tfds(prepared).info.splits["test"].num_examples > 0


@pytest.mark.parametrize("name", ["features.json", "dataset_info.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 10**5, '{"name": 3}'])
def test_damaged_metadata_are_an_error_of_one_kind(prepared, name, text):
    (prepared / name).write_text(text)
    with pytest.raises(UnreadableFile, match=r"1\.0\.0"):
        open_tfds(prepared)
