# SPDX-License-Identifier: Apache-2.0
"""Captions, boxes and maps of TFDS sets are read as fields of records."""

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath

from ldm_jax.data.examples import read_example
from ldm_jax.data.images.tfds_source import TfdsSource
from ldm_jax.data.records import DamagedRecord
from tests.data.builders.layouts import label_map, picture

CLASSES = tfds.features.ClassLabel(names=["cat", "dog"])


def source_of(tmp_path, features, *examples):
    """Writes a set of one split with TFDS and opens it."""

    class Small(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        name = f"small_{abs(hash(tmp_path))}"  # TFDS registers names once
        code_path = epath.Path(__file__)

        def _info(self):
            image = {"image": tfds.features.Image()}
            features_dict = tfds.features.FeaturesDict({**image, **features})
            return tfds.core.DatasetInfo(builder=self, features=features_dict)

        def _split_generators(self, dl_manager):
            return {"train": enumerate({"image": picture(7), **e} for e in examples)}

        _generate_examples = None

    builder = Small(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    return TfdsSource(builder, "train")


def test_captions_with_ids_as_in_tfds_coco(tmp_path):
    entry = {"id": np.int64, "text": tfds.features.Text()}
    features = {"captions": tfds.features.Sequence(entry)}
    captions = [{"id": 1, "text": "a cat"}, {"id": 2, "text": "ein Kätzchen"}]
    source = source_of(tmp_path, features, {"captions": captions})
    assert source[0]["captions"] == ("a cat", "ein Kätzchen")


def test_one_caption(tmp_path):
    features = {"caption": tfds.features.Text()}
    assert source_of(tmp_path, features, {"caption": "a cat"})[0]["captions"] == (
        "a cat",
    )


def test_an_image_without_captions_is_damaged(tmp_path):
    features = {"captions": tfds.features.Sequence(tfds.features.Text())}
    source = source_of(tmp_path, features, {"captions": []})
    with pytest.raises(DamagedRecord, match=r"train\[0\] has no caption"):
        source[0]


def test_objects_become_boxes(tmp_path):
    """Oracle: TFDS' corners are y, x, y, x; ours are x, y, width, height."""
    entry = {"bbox": tfds.features.BBoxFeature(), "label": CLASSES, "area": np.int64}
    features = {"objects": tfds.features.Sequence(entry), "label": CLASSES}
    box = tfds.features.BBox(ymin=0.0, xmin=0.25, ymax=0.5, xmax=1.0)
    objects = [{"bbox": box, "label": "dog", "area": 3}]
    source = source_of(
        tmp_path,
        features,
        {"objects": objects, "label": "dog"},
        {"objects": [], "label": "cat"},
    )
    records = sorted(source.__getitems__([0, 1]), key=lambda r: -len(r["boxes"]))
    assert source.box_names == source.class_names == ("cat", "dog")
    assert records[0]["boxes"].tolist() == [[0.25, 0, 0.75, 0.5]]
    assert records[0]["box_labels"].tolist() == [1] and records[0]["label"] == 1
    assert records[1]["boxes"].shape == (0, 4)


@pytest.mark.parametrize("name", ["segmentation_mask", "segmentation_label"])
def test_maps_of_classes_go_by_several_names(tmp_path, name):
    features = {name: tfds.features.Image(shape=(None, None, 1))}
    source = source_of(tmp_path, features, {name: label_map(5)})
    assert np.array_equal(source[0]["label_map"], np.full((4, 6), 5))


def test_other_features_are_passed_over(tmp_path):
    features = {"number": np.int64, "objects": tfds.features.Sequence(np.int64)}
    source = source_of(tmp_path, features, {"number": 3, "objects": [1]})
    assert set(source[0]) == {"image"} and source.sizes().tolist() == [[4, 6]]


@pytest.mark.parametrize(
    ("box", "label"), [((0.5, 0, 0.2, 1), 0), ((0, 0, 2, 1), 0), ((0, 0, 1, 1), 5)]
)
def test_boxes_and_labels_that_cannot_be_are_a_damaged_record(tmp_path, box, label):
    """What TFDS wrote is changed in the record, as a damaged or hostile set has it."""
    boxes = tfds.features.Sequence(
        {"bbox": tfds.features.BBoxFeature(), "label": CLASSES}
    )
    entry = {"bbox": tfds.features.BBox(0.0, 0.0, 1.0, 1.0), "label": 1}
    source = source_of(tmp_path, {"objects": boxes}, {"objects": [entry]})
    source[0]
    stored = read_example(source._records[0])
    stored |= {"objects/bbox": np.float32(box), "objects/label": np.int64([label])}
    with pytest.raises(ValueError, match=r"boxes must be within|a label must be in"):
        source._readers[-1](stored, "name")
