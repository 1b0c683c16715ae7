# SPDX-License-Identifier: Apache-2.0
"""Layouts: boxes of records and of users, right and wrong."""

import json

import pytest

from ldm_jax.conditions.registry import make_condition

LAYOUT = make_condition(
    "layout", num_classes=3, max_objects=2, class_names=("cat", "dog", "bird")
)


def test_records_become_layouts():
    record = {"boxes": [[0.0, 0.0, 0.5, 0.5]], "box_labels": [4], "image": None}
    published = make_condition("layout", num_classes=601)
    tokens = published.prepare(record)["tokens"]
    assert tokens[:3].tolist() == [4, 0, 44 * 90 + 44]


def test_records_without_boxes_name_the_setting_that_brings_them():
    with pytest.raises(ValueError, match=r"made of box_labels.*images\.boxes"):
        LAYOUT.prepare({"image": None})


def test_attributes_that_no_record_has_are_refused_in_training():
    record = {"boxes": [[0.0, 0.0, 0.5, 0.5]], "box_labels": [4]}
    layout = make_condition("layout", num_classes=100, has_attributes=True)
    with pytest.raises(ValueError, match=r"box_attributes.*openimages_layout"):
        layout.prepare(record)


def test_attributes_of_a_record_are_bits_above_the_classes():
    record = {"boxes": [[0.0, 0.0, 0.5, 0.5]], "box_labels": [4], "box_attributes": [9]}
    layout = make_condition("layout", num_classes=352, has_attributes=True)
    assert layout.prepare(record)["tokens"][0] == 4 + 352 * (1 + 8)
    assert set(layout.stored) == set(record)


def test_numbers_without_a_name_are_no_classes_where_others_have_names():
    layout = make_condition("layout", num_classes=4, class_names=("cat", "dog"))
    with pytest.raises(ValueError, match=r"in 0\.\.1, or one of the names cat, dog"):
        layout.from_user(boxes=[{"label": 2, "box": [0, 0, 1, 1]}])


def test_layout_is_read_from_json(tmp_path):
    file = tmp_path / "boxes.json"
    one = [{"label": "dog", "box": [0, 0, 1, 1]}, {"label": 2, "box": [0, 0, 0.5, 0.5]}]
    file.write_text(json.dumps(one))
    tokens = LAYOUT.from_user(boxes=file)["tokens"]
    assert tokens.shape == (1, 8) and tokens[0, :4].tolist() == [1, 0, 8099, 2]
    assert LAYOUT.from_user(boxes=[one, one[:1]])["tokens"].shape == (2, 8)


def test_attributes_of_a_box_are_read_where_the_model_reads_them():
    """Golden: class + classes x bits, occluded is 2."""
    box = {"label": 1, "box": [0, 0, 1, 1], "is_occluded": True}
    layout = make_condition("layout", num_classes=3, max_objects=2, has_attributes=True)
    assert layout.from_user(boxes=[box])["tokens"][0, 0] == 1 + 3 * 2
    with pytest.raises(ValueError, match=r"reads no attributes.*is_occluded"):
        LAYOUT.from_user(boxes=[box])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{", "must be JSON"),
        ('{"label": 0}', "is a list of boxes"),
        ('[{"label": 0}]', "a box is"),
        ('[{"label": 9, "box": [0, 0, 1, 1]}]', r"in 0\.\.2"),
        ('[{"label": 0, "box": [0.5, 0, 1, 1]}]', "must be inside the image"),
        (json.dumps([{"label": 0, "box": [0, 0, 1, 1]}] * 3), "2 boxes at most"),
    ],
)
def test_bad_layouts_are_refused(tmp_path, text, message):
    file = tmp_path / "boxes.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        LAYOUT.from_user(boxes=file)
