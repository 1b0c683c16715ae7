# SPDX-License-Identifier: Apache-2.0
"""Open Images: boxes, and those of the paper's layout models."""

import numpy as np
import pytest

from ldm_jax.data.transforms.image_transform import ImageTransform
from tests.data.builders import layouts
from tests.data.builders.layouts import reds


def test_open_images_have_boxes(opened):
    layouts.openimages(opened.root)
    source, records = opened("openimages")
    assert reds(records) == [10, 11] and source.box_names == ("Tortoise", "Box")
    assert records[0]["boxes"].shape == (0, 4)
    assert records[1]["boxes"].tolist() == [[0.5, 0.25, 0.5, 0.5], [0, 0, 0.5, 0.5]]
    assert records[1]["box_labels"].tolist() == [1, 0]
    assert reds(opened("openimages", "validation")[1]) == [12]


def test_open_images_for_layouts_have_the_classes_and_attributes_of_the_paper(opened):
    """Paper: merged and rare classes, small boxes, images of 2 to 30 boxes, bits."""
    layouts.openimages_layout(opened.root)
    source, records = opened("openimages_layout")
    assert len(source.box_names) == 340 and source.box_names[-1] == "Suitcase"
    assert reds(records) == [11]
    names = [source.box_names[i] for i in records[0]["box_labels"]]
    assert names == ["Person", "Suitcase"]
    assert records[0]["box_attributes"].tolist() == [2, 1 + 8]
    example = ImageTransform(4, max_boxes=3)(records[0], np.random.default_rng(0))
    assert example["box_attributes"].tolist() == [2, 9, -1]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: text.replace("/m/02", "/m/77"), "KeyError '/m/77'"),
        (lambda text: text.replace("0.25", "a quarter"), "a quarter"),
        (lambda text: text.replace("XMin", "Left"), "XMin"),
    ],
)
def test_damaged_boxes_of_open_images_are_refused(opened, damage, words):
    layouts.openimages(opened.root)
    path = opened.root / "oidv6-train-annotations-bbox.csv"
    path.write_text(damage(path.read_text()))
    with pytest.raises(ValueError, match=words):
        opened("openimages")


def test_open_images_without_boxes_are_refused(opened):
    layouts.openimages(opened.root)
    (opened.root / "validation-annotations-bbox.csv").unlink()
    with pytest.raises(ValueError, match="images of validation but not their boxes"):
        opened("openimages")
