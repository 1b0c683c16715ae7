# SPDX-License-Identifier: Apache-2.0
"""A prepared set cannot have a module imported that its files name."""

import json
import os
import shutil
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


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Both splits of a prepared set, 1442 and 355 images."""
    root = tmp_path_factory.mktemp("sets")
    open_images("digits", data_dir=str(root))
    return root / "digits" / "1.0.0"


@pytest.mark.parametrize(
    ("split", "count"),
    [
        ("train", 1442),
        ("train+test", 1797),
        ("train + test", 1797),
        ("all", 1797),
        ("train[:10%]+test[-5:]", 149),
        ("train[0shard]", 1442),
    ],
)
def test_a_split_is_read_in_the_syntax_of_tfds(digits, split, count):
    source = open_images(str(digits), split)
    assert len(source) == count and source[count - 1]["image"].shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("val", 'unknown split "val" of digits; one of: train, test, all'),
        ("train+val", "unknown split"),
        ("", "unknown split"),
        ("train[", "unknown split"),
        ("all[:10%]", "unknown split"),
        ("train[:200%]", "unknown split"),
        ("train[50%:40%]", "has no records; of train: 1442, test: 355"),
        ("train[1shard]", "has no records"),
    ],
)
def test_a_missing_split_is_one_line(digits, split, message):
    with pytest.raises(ValueError) as error:
        open_images(str(digits), split)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.fixture
def copied(digits, tmp_path):
    return shutil.copytree(digits, tmp_path / "digits" / "1.0.0")


@pytest.mark.parametrize("split", ["test", "train+test", "all", "train[:5]+test[:5]"])
def test_a_missing_shard_of_any_part_is_noticed_when_the_set_is_opened(copied, split):
    next(copied.glob("*-test.*")).unlink()
    with pytest.raises(UnreadableFile, match="1 shards of digits are not there"):
        open_images(str(copied), split)
    assert len(open_images(str(copied), "train")) == 1442


@pytest.mark.parametrize("split", ["test", "train+test", "train[:5]+test[:5]"])
@pytest.mark.parametrize("size", [0, 1000, -100])
def test_a_cut_shard_of_any_part_is_noticed_when_the_set_is_opened(copied, split, size):
    shard = next(copied.glob("*-test.*"))
    os.truncate(shard, size if size >= 0 else shard.stat().st_size + size)
    with pytest.raises(UnreadableFile, match=rf"{shard.name} must be a shard of the"):
        open_images(str(copied), split)
    assert len(open_images(str(copied), "train")) == 1442


@pytest.mark.parametrize("form", ["tfrecord", "riegeli", "parquet"])
def test_an_error_explains_how_to_convert_a_set_in_another_format(copied, form):
    """By its path, and by its name: not "unknown image set"."""
    path = copied / "dataset_info.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps({**info, "fileFormat": form}))
    for arguments in ((str(copied),), ("digits", "train", str(copied.parents[1]))):
        with pytest.raises(UnreadableFile, match=f"is of {form}. .*convert_format"):
            open_images(*arguments)
