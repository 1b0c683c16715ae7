# SPDX-License-Identifier: Apache-2.0
"""Every image finds the bucket of its aspect ratio; sizes are read from headers."""

import os

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data.images.image_sets import open_images
from ldm_jax.data.transforms.buckets import Subset, assign, image_sizes, parse_buckets
from tests.data.test_loader import Numbers

BUCKETS = ((256, 256), (192, 320), (320, 192))


def test_buckets_are_read_from_a_line():
    assert parse_buckets("256x256, 192x320,320x192") == BUCKETS


@pytest.mark.parametrize("text", ["", "256", "256x", "axb", "8x8,8x8", "0x8", "-8x8"])
def test_other_lines_are_refused(text):
    with pytest.raises(ValueError, match="buckets must be"):
        parse_buckets(text)


def test_the_nearest_ratio_is_taken_by_logarithm():
    """Oracle: the border between 1 and 5/3 is at their geometric mean, 1.291."""
    sizes = np.array([[500, 500], [100, 128], [100, 131], [128, 100], [131, 100]])
    assert assign(sizes, BUCKETS).tolist() == [0, 0, 1, 0, 2]


@pytest.mark.parametrize("kind", ["folder", "tfds", "plain"])
def test_sizes_are_those_of_the_decoded_images(tmp_path, kind):
    if kind == "folder":
        turned = Image.Exif()
        turned[0x0112] = 6
        Image.new("RGB", (5, 3)).save(tmp_path / "a.jpg", exif=turned)
        Image.new("RGB", (5, 3)).save(tmp_path / "b.png")
        source = open_images(os.fspath(tmp_path), "all")
    else:
        source = open_images("digits", "test", os.fspath(tmp_path))
    if kind == "plain":
        source = Subset(source, range(5))
    decoded = [source[i]["image"].shape[:2] for i in range(len(source))]
    assert image_sizes(source).tolist() == [list(size) for size in decoded]


def test_a_subset_holds_its_records():
    part = Subset(Numbers(10), [7, 2, 5])
    assert len(part) == 3 and part[1]["x"] == 2
    assert [int(r["x"]) for r in part.__getitems__([2, 0])] == [5, 7]
    assert part.fingerprint != Subset(Numbers(10), [7, 2]).fingerprint
