# SPDX-License-Identifier: Apache-2.0
"""Boxes as tokens: the published numbers, round trips, boxes out of range."""

import pytest

from ldm_jax.conditions.kinds.boxes import Box, BoxTokens

TOKENS = BoxTokens(num_classes=601, has_attributes=False)


def test_layout_of_the_published_model_has_92_tokens_on_a_grid_of_90():
    """Paper: 30 objects x 3 tokens + 2 of the crop; floor(sqrt(8192)) = 90."""
    tokens = TOKENS.encode([Box(17, 0.0, 0.0, 1.0, 1.0)])
    assert tokens.shape == (92,) and TOKENS.side == 90
    assert tokens[:3].tolist() == [17, 0, 89 * 90 + 89]
    assert set(tokens[3:90].tolist()) == {8191}
    assert tokens[90:].tolist() == [0, 89 * 90 + 89]


def test_points_between_two_cells_round_to_the_even_one():
    """Golden: Python's round, as in the original; 0.5 * 89 = 44.5 goes to 44."""
    assert TOKENS.point_token(0.5, 0.5) == 44 * 90 + 44
    assert TOKENS.point_token(1.5 / 89, 0) == 2


def test_boxes_come_back_to_within_half_a_cell():
    """Identity: decode inverts encode."""
    boxes = [Box(3, 0.1, 0.2, 0.3, 0.4), Box(600, 0.5, 0.0, 0.25, 1.0)]
    back, crop = TOKENS.decode(TOKENS.encode(boxes, crop=(0.1, 0.0, 0.8, 1.0)))
    assert [box.label for box in back] == [3, 600]
    for box, again in zip(boxes, back, strict=True):
        assert again.x == pytest.approx(box.x, abs=0.5 / 89 + 1e-9)
        assert again.y == pytest.approx(box.y, abs=0.5 / 89 + 1e-9)
        assert again.width == pytest.approx(box.width, abs=1 / 89 + 1e-9)
        assert again.height == pytest.approx(box.height, abs=1 / 89 + 1e-9)
    assert crop == pytest.approx((0.1, 0.0, 0.8, 1.0), abs=1 / 89 + 1e-9)


def test_attributes_are_bits_above_the_classes():
    """Golden: group 1, occluded 2, depiction 4, inside 8, times the classes."""
    layout = BoxTokens(num_classes=100, has_attributes=True)
    box = Box(7, 0, 0, 1, 1, is_occluded=True, is_inside=True)
    tokens = layout.encode([box])
    assert tokens[0] == 7 + 100 * (2 + 8)
    assert layout.decode(tokens)[0] == [box]


@pytest.mark.parametrize("num_classes", [352, 511])
def test_classes_and_attributes_fit_below_8192_ids(num_classes):
    """Identity: the last class with all attributes comes back."""
    layout = BoxTokens(num_classes, has_attributes=True)
    box = Box(num_classes - 1, 0, 0, 1, 1, True, True, True, True)
    assert layout.decode(layout.encode([box]))[0] == [box]
    with pytest.raises(ValueError, match="got 8192 for vocab_size=8192"):
        BoxTokens(512, has_attributes=True)


def test_no_boxes_is_a_layout_too():
    assert TOKENS.decode(TOKENS.encode([]))[0] == []


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (Box(601, 0, 0, 1, 1), r"in \[0, 601\): got 601"),
        (Box(0, 0.5, 0, 0.6, 1), "must be inside the image"),
        (Box(0, 0.5, 0.5, -0.1, 0.1), "must be inside the image"),
        (Box(0, 20, 30, 40, 50), "divide pixels by the image's size"),
    ],
)
def test_bad_boxes_are_refused(box, message):
    with pytest.raises(ValueError, match=message):
        TOKENS.encode([box])


def test_more_classes_than_ids_are_refused():
    with pytest.raises(ValueError, match="raise vocab_size"):
        BoxTokens(num_classes=601, has_attributes=True)
