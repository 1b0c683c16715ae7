# SPDX-License-Identifier: Apache-2.0
"""Crops, resizing and ranges are those of the paper's protocol."""

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data.transforms.image_transform import ImageTransform
from ldm_jax.data.transforms.pixels import FILTERS, mirror_image, resize, to_unit_range


def rng(seed=0):
    return np.random.default_rng(seed)


def picture(height, width, seed=0):
    return rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("interpolation", sorted(FILTERS))
@pytest.mark.parametrize("size", [(9, 13), (40, 30)])
def test_resizing_is_pillows(interpolation, size):
    image = picture(24, 31)
    expected = Image.fromarray(image).resize(size[::-1], FILTERS[interpolation])
    assert np.array_equal(resize(image, size, interpolation), np.asarray(expected))


def test_reducing_is_antialiased():
    """Oracle: a checkerboard of black and white averages to grey."""
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    image = np.repeat(board[:, :, None], 3, axis=2)
    assert (
        abs(resize(image, (8, 8), "bicubic")[2:-2, 2:-2].astype(int) - 127).max() <= 2
    )


def test_the_range_is_minus_one_to_one():
    result = to_unit_range(np.uint8([0, 255]))
    assert result.tolist() == [-1, 1] and result.dtype == np.float32


def test_a_center_crop_is_the_protocol_of_lsun():
    """Golden: ldm/data/lsun.py, written out: crop the square, bicubic, / 127.5 - 1."""
    image = picture(50, 37)
    side = min(image.shape[:2])
    h, w = image.shape[:2]
    square = image[(h - side) // 2 : (h + side) // 2, (w - side) // 2 : (w + side) // 2]
    expected = Image.fromarray(square).resize((16, 16), Image.Resampling.BICUBIC)
    expected = (np.array(expected) / 127.5 - 1.0).astype(np.float32)
    actual = ImageTransform(16)({"image": image, "label": 3}, rng())
    np.testing.assert_allclose(actual["image"], expected, atol=1e-6)  # float32 rounding
    assert actual["label"].dtype == np.int32 and actual["label"] == 3


def test_a_random_crop_is_a_window_of_the_image():
    """Identity: where nothing is resized, the crop is found again in the image."""
    image = picture(8, 12)
    tops = set()
    for seed in range(40):
        result = ImageTransform(8, crop="random")({"image": image}, rng(seed))["image"]
        windows = [to_unit_range(image[:, x : x + 8]) for x in range(5)]
        match = [x for x in range(5) if np.array_equal(windows[x], result)]
        assert len(match) == 1
        tops |= set(match)
    assert tops == set(range(5))


def test_min_scale_draws_smaller_windows():
    """Oracle: in an image whose red runs 0..199 by column, the window's width shows."""
    image = np.zeros((200, 200, 3), np.uint8)
    image[:, :, 0] = np.arange(200)
    transform = ImageTransform(100, crop="random", min_scale=0.5)
    widths = []
    for seed in range(40):
        red = (transform({"image": image}, rng(seed))["image"][50, :, 0] + 1) * 127.5
        widths.append((red[-1] - red[0]) * 100 / 99)
    assert min(widths) < 125 and max(widths) > 175 and min(widths) > 97


@pytest.mark.parametrize(
    ("shape", "scales", "window"),
    [
        ((384, 500), (2 / 3, 2 / 3), 256),
        ((300, 200), ("native", "native"), 64),
        ((48, 200), ("native", "native"), 48),
    ],
    ids=["two thirds", "native", "smaller than the image"],
)
def test_equal_scales_fix_the_window(shape, scales, window):
    """Paper: 384 to 256 is a window of 2/3; "native" cuts pixels out as they are."""
    low, high = scales
    transform = ImageTransform(
        256 if shape[0] > 300 else 64, "random", low, max_scale=high
    )
    places = set()
    for seed in range(20):
        result = transform._window(shape, rng(seed))
        assert result.height == result.width == window
        places.add((result.top, result.left))
    assert len(places) > 10


def test_layouts_are_cut_between_native_and_whole():
    transform = ImageTransform(64, "random", "native")
    sides = [transform._window((128, 256), rng(seed)).height for seed in range(200)]
    assert 64 <= min(sides) < 70 and 122 < max(sides) <= 128


def test_flip_mirrors_every_second_image():
    image = picture(8, 8)
    plain = to_unit_range(image)
    transform = ImageTransform(8, flip=True)
    result = [transform({"image": image}, rng(seed))["image"] for seed in range(40)]
    mirrored = [np.array_equal(f, mirror_image(plain)) for f in result]
    assert all(
        m or np.array_equal(f, plain) for m, f in zip(mirrored, result, strict=True)
    )
    assert 10 < sum(mirrored) < 30


def test_an_aspect_ratio_is_cropped_not_squeezed():
    image = picture(20, 20)
    result = ImageTransform((10, 20))({"image": image}, rng())["image"]
    assert np.array_equal(result, to_unit_range(image[5:15]))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"crop": "left"}, "one of: center, random"),
        ({"interpolation": "cubic"}, "one of: nearest"),
        ({"min_scale": 0.0}, r"in \(0, 1\]"),
        ({"min_scale": 0.5}, 'may differ only with crop="random": got 0.5 and 1.0'),
        ({"max_scale": "whole"}, "max_scale must be in"),
        ({"min_scale": 0.5, "max_scale": 0.4}, "must not be above max_scale"),
        ({"image_size": 0}, "positive"),
    ],
)
def test_a_wrong_option_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        ImageTransform(**{"image_size": 8, **fields})


def test_the_description_distinguishes_transforms():
    assert ImageTransform(8).description == ImageTransform(8).description
    assert ImageTransform(8).description != ImageTransform(8, flip=True).description
