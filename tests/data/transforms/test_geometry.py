# SPDX-License-Identifier: Apache-2.0
"""Boxes and label maps move with the image."""

import numpy as np

from ldm_jax.data.transforms.geometry import NO_BOX, Window, crop_boxes, mirror_field
from ldm_jax.data.transforms.image_transform import ImageTransform, mirrored
from ldm_jax.data.transforms.pixels import mirror_image, to_unit_range


def test_boxes_are_clipped_dropped_and_padded():
    """Oracle: by hand, in a 10x20 image of which the right half is kept."""
    boxes = np.float32([[0, 0, 0.4, 1], [0.25, 0.5, 0.5, 0.5], [0.75, 0, 0.25, 0.1]])
    labels = np.int32([4, 5, 6])
    result, names = crop_boxes(boxes, labels, (10, 20), Window(0, 10, 10, 10), 3)
    np.testing.assert_allclose(
        result, [[0, 0.5, 0.5, 0.5], [0.5, 0, 0.5, 0.1], [0, 0, 0, 0]], atol=1e-6
    )
    assert names.tolist() == [5, 6, NO_BOX]


def test_of_too_many_boxes_the_largest_stay_in_their_order():
    boxes = np.float32([[0, 0, 0.5, 0.5], [0, 0, 0.1, 0.1], [0, 0, 1, 1]])
    result, names = crop_boxes(
        boxes, np.int32([0, 1, 2]), (8, 8), Window(0, 0, 8, 8), 2
    )
    assert names.tolist() == [0, 2] and result[:, 2].tolist() == [0.5, 1]


def test_an_image_without_boxes_has_only_padding():
    none = np.zeros((0, 4), np.float32), np.zeros(0, np.int32)
    result, names = crop_boxes(*none, (8, 8), Window(0, 0, 8, 8), 2)
    assert not result.any() and names.tolist() == [NO_BOX, NO_BOX]


def test_mirroring_twice_is_nothing():
    boxes = np.float32([[0.25, 0, 0.5, 1], [0.75, 0.5, 0.25, 0.5], [0, 0, 0, 0]])
    once = mirror_field("boxes", boxes)
    assert once[:, 0].tolist() == [0.25, 0, 0]
    assert np.array_equal(mirror_field("boxes", once), boxes)


def test_every_field_follows_the_image():
    """Oracle: one bright pixel is found in the image, the map and the box alike."""
    rng = np.random.default_rng(0)
    for seed in range(20):
        y, x = rng.integers(4, 12, 2)
        image = np.zeros((16, 16, 3), np.uint8)
        image[y, x] = 255
        record = {
            "image": image,
            "label_map": (image[:, :, 0] > 0).astype(np.uint8),
            "boxes": np.float32([[x / 16, y / 16, 1 / 16, 1 / 16]]),
            "box_labels": np.int32([3]),
        }
        transform = ImageTransform(8, "random", 0.5, "nearest", True, max_boxes=1)
        result = transform(record, np.random.default_rng(seed))
        bright = result["image"][:, :, 0] > 0
        assert np.array_equal(bright, result["label_map"] == 1)
        if bright.any():
            left, top, width, height = result["boxes"][0] * 8
            (row, column), *_ = np.argwhere(bright)
            assert left - 1 <= column <= left + width
            assert top - 1 <= row <= top + height


def test_a_mirrored_example_mirrors_what_has_positions():
    example = {
        "image": to_unit_range(np.arange(24, dtype=np.uint8).reshape(2, 4, 3)),
        "label": np.int32(3),
        "label_map": np.arange(8).reshape(2, 4),
        "caption": "to the left",
    }
    result = mirrored(example)
    assert np.array_equal(result["image"], mirror_image(example["image"]))
    assert np.array_equal(result["label_map"], example["label_map"][:, ::-1])
    assert result["label"] == 3 and result["caption"] == "to the left"


def test_a_box_stays_that_is_mostly_elsewhere_only_where_it_fills_the_window():
    """Paper: a ten-thousandth of the box inside, or 15 % of the window covered."""
    window, label = Window(0, 0, 1, 1), np.int32([1])
    cases = {  # pixels x, y, width, height in an image of 500 x 100 -> stays
        (0.1, 0.1, 499, 99): True,  # 0.81 of the window, 1/60,000 of the box
        (0, 0, 500, 0.1): True,  # 0.1 of the window, 1/500 of the box
        (0.8, 0.8, 499, 99): False,  # 0.04 of the window, 1/1,200,000 of the box
    }
    for pixels, stays in cases.items():
        box = np.float32([pixels]) / np.float32([500, 100, 500, 100])
        result = crop_boxes(box, label, (100, 500), window, 1)[1]
        assert result.tolist() == [1 if stays else NO_BOX]


def test_numbers_of_a_box_are_kept_together():
    boxes, numbers = np.float32([[0, 0, 0.5, 0.5]]), np.int32([[3, 8]])
    result = crop_boxes(boxes, numbers, (8, 8), Window(0, 0, 8, 8), 2)[1]
    assert result.tolist() == [[3, 8], [NO_BOX, NO_BOX]]
