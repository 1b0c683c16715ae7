# SPDX-License-Identifier: Apache-2.0
"""Pictures: truncation, layout, and settings that can be read back."""

import numpy as np
import pytest
from PIL import Image

from ldm_jax.files.formats import png


def test_uint8_truncates_and_clamps():
    image = np.array([-2.0, -1.0, -1 + 1.99 / 127.5, 0.0, 1.0, 2.0], np.float32)
    assert png.to_uint8(image).tolist() == [0, 0, 1, 127, 255, 255]


def test_uint8_refuses_nan():
    with pytest.raises(ValueError, match="must be finite"):
        png.to_uint8(np.array([np.nan]))


def test_boxes_are_outlines_in_the_colour_of_their_class_with_names():
    boxes = [(3, "", (0.25, 0.5, 0.5, 0.25)), (3, "", (0, 0, 0.2, 0.2))]
    image = png.draw_boxes([*boxes, (4, "", (0.9, 0.9, 0.1, 0.1))], (101, 201))
    assert image.shape == (101, 201, 3) and image.dtype == np.uint8
    ink = (image < 255).any(-1)
    assert ink[50, 50:151].all() and ink[75, 50:151].all()
    assert ink[50:76, 50].all() and ink[50:76, 150].all()
    assert not ink[53:73, 53:148].any() and not ink[25:49].any()
    assert (image[50, 60] == image[0, 5]).all()  # of one class
    assert (image[50, 60] != image[100, 190]).any()
    named = png.draw_boxes([(3, "cat", boxes[0][2])], (101, 201))
    assert (named[53:73, 53:148] < 255).any()


def test_grid_puts_every_image_in_its_place():
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones(
        (1, 4, 6, 3), np.uint8
    )
    sheet = png.grid(images, num_columns=3, pad=1)
    assert sheet.shape == (2 * 5 + 1, 3 * 7 + 1, 3)
    assert (sheet[6:10, 8:14] == 4).all()  # second row, second column
    assert (sheet[6:10, 15:21] == 255).all()  # the missing sixth stays white


def test_grid_enlarges_and_labels_rows():
    images = np.zeros((4, 2, 2, 3), np.uint8)
    plain = png.grid(images, 2, enlarge=10)
    labelled = png.grid(images, 2, ["zero", "one"], enlarge=10)
    assert labelled.shape[0] == plain.shape[0]
    margin = labelled.shape[1] - plain.shape[1]
    assert (labelled[:, margin:] == plain).all()
    assert (labelled[:, :margin] < 128).any()  # ink
    with pytest.raises(ValueError, match="2 rows"):
        png.grid(images, 2, ["only one"])


def test_captions_are_below_the_images():
    images = np.zeros((3, 4, 4, 3), np.uint8)
    sheet = png.grid(images, 3, enlarge=10, captions=["rose", "", "a very long name"])
    height, width = 40 + png.CAPTION_HEIGHT, 42
    assert sheet.shape == (2 + height + 2, 2 + 3 * width, 3)
    inks = [
        (sheet[42 : 2 + height, 2 + i * width : 42 + i * width] < 128).any()
        for i in range(3)
    ]
    assert inks == [True, False, True]
    assert (sheet[2:42, 2:42] == 0).all()
    with pytest.raises(ValueError, match="captions must name every image: got 1"):
        png.grid(images, 3, captions=["rose"])


def test_small_images_are_enlarged_and_large_ones_are_not():
    assert [png.enlargement(side) for side in (16, 100, 256)] == [8, 1, 1]


def test_png_carries_its_settings(tmp_path):
    path = tmp_path / "new" / "a.png"
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    png.save_png(path, image, {"seed": 7, "sampler": "ddim"})
    opened = Image.open(path)
    assert (np.asarray(opened) == image).all()
    assert opened.text["ldm_jax:seed"] == "7"
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]
