# SPDX-License-Identifier: Apache-2.0
"""Class labels: tokens, embeddings of the UNet, and inputs of users."""

import jax
import numpy as np
import pytest

from ldm_jax.conditions.registry import make_condition
from tests.conditions.examples import batch

LABELS = make_condition("class", num_classes=3, class_names=("cat", "dog", "bird"))


@pytest.mark.parametrize("names", [(0, 1, 2), "cat", (None,), ("a" * 100_000,)])
def test_names_of_classes_are_short_texts(names, unchecked_shapes):
    """They are drawn beside samples, after these were computed."""
    with pytest.raises(ValueError, match="class_names must be texts of at most 1000"):
        make_condition("class", num_classes=3, class_names=names)


def test_class_without_width_is_handed_to_the_unet():
    condition = make_condition("class", num_classes=4, width=None)
    y = batch()
    assert condition.init(jax.random.key(0), y) == {}
    assert (condition.encode({}, y).class_label == y["label"]).all()
    assert (condition.null(y)["label"] == 4).all()


def test_class_without_null_can_neither_be_dropped_nor_guided():
    """The published cin256 has 1000 classes and no null; cin256-v2 has one more."""
    condition = make_condition("class", num_classes=4, has_null=False)
    y = batch()
    assert condition.init(jax.random.key(0), y)["embedding"].shape == (4, 512)
    with pytest.raises(ValueError, match="has_null=True"):
        condition.drop(y, jax.random.key(0), 0.1)


@pytest.mark.parametrize("label", [-1, 4, 7])
def test_labels_of_the_data_beyond_the_classes_are_refused(label):
    """4 would be the null, 7 be read as 4: a table clamps its indices, silently."""
    condition = make_condition("class", num_classes=4, width=8)
    assert condition.prepare({"label": np.int32(3)}) == {"label": 3}
    with pytest.raises(ValueError, match=rf"in \[0, 4\).*num_classes: got {label};"):
        condition.prepare({"label": np.int32(label)})


@pytest.mark.parametrize("given", ["cat, 2", ["cat", 2], ("0", "bird")])
def test_classes_are_given_by_number_or_name(given):
    assert LABELS.from_user(class_label=given)["label"].tolist() == [0, 2]


@pytest.mark.parametrize("given", ["3", "-1", "fish", 7, 1.5])
def test_an_error_for_an_unknown_class_lists_the_known_ones(given):
    with pytest.raises(ValueError, match=r"in 0\.\.2, or one of the names cat, dog"):
        LABELS.from_user(class_label=given)


def test_a_misspelt_class_is_answered_with_the_nearest_name():
    with pytest.raises(ValueError, match="got 'dogs'; did you mean \"dog\""):
        LABELS.from_user(class_label="cat,dogs")


@pytest.mark.parametrize("given", ["²", "--5", "9" * 5000])
def test_what_is_no_number_is_an_unknown_name(given):
    with pytest.raises(ValueError, match=r"in 0\.\.2, or one of the names cat, dog"):
        LABELS.from_user(class_label=given)


def test_where_names_are_numbers_a_text_is_a_name():
    condition = make_condition("class", num_classes=3, class_names=("1", "2", "3"))
    assert condition.from_user(class_label="3,1")["label"].tolist() == [2, 0]
    assert condition.from_user(class_label=[0])["label"].tolist() == [0]
    with pytest.raises(ValueError, match="or one of the names 1, 2, 3: got '0'"):
        condition.from_user(class_label="0")


def test_a_name_may_have_a_comma():
    condition = make_condition("class", num_classes=2, class_names=("a,b", "c"))
    assert condition.from_user(class_label="a,b")["label"].tolist() == [0]
    assert condition.from_user(class_label=["c", "a,b"])["label"].tolist() == [1, 0]


def test_records_without_labels_name_the_way_to_get_them():
    with pytest.raises(ValueError, match="made of label: got records with image; put"):
        LABELS.prepare({"image": None})


def test_a_class_name_with_a_line_break_stays_in_one_line_of_an_error():
    with pytest.raises(ValueError) as raised:
        make_condition("class", num_classes=2, class_names=("a\nb", "d")).from_user(
            class_label="c"
        )
    assert "\n" not in str(raised.value) and r"a\nb, d" in str(raised.value)
