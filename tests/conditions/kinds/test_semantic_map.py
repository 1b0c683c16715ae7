# SPDX-License-Identifier: Apache-2.0
"""Label maps: the null map, and inputs of users."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ldm_jax.conditions.registry import make_condition
from tests.conditions.examples import save

MAPS = make_condition("semantic", num_classes=3, f=2)


def test_no_label_of_256_is_none_of_them():
    """Maps are stored in uint8, which has no 256."""
    condition = make_condition("semantic", num_classes=256, f=2)
    null = condition.null({"label_map": jnp.zeros((1, 2, 2), jnp.uint8)})
    assert null["label_map"].tolist() == [[[256, 256], [256, 256]]]


def test_label_map_is_read_from_a_grey_or_palette_png(tmp_path):
    labels = np.array([[0, 1, 2, 3]] * 2, np.uint8)
    file = save(tmp_path / "map.png", labels)
    palette = Image.fromarray(labels).convert("P")
    palette.putdata(labels.ravel().tolist())
    palette.save(tmp_path / "palette.png")
    for given in (file, tmp_path / "palette.png", labels):
        read = MAPS.from_user(segmentation=given)["label_map"]
        np.testing.assert_array_equal(read, labels[None])


def test_bad_label_maps_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"labels of a map are in 0\.\.2 .*got \[7\]"):
        MAPS.from_user(segmentation=np.full((2, 2), 7))
    with pytest.raises(ValueError, match="crop it to 2x2"):
        MAPS.from_user(segmentation=np.zeros((3, 2)))
    rgb = save(tmp_path / "rgb.png", np.zeros((2, 2, 3)))
    with pytest.raises(ValueError, match="save it with one channel"):
        MAPS.from_user(segmentation=rgb)
    with pytest.raises(ValueError, match="must have one size"):
        MAPS.from_user(segmentation=[np.zeros((2, 2)), np.zeros((4, 2))])


def test_a_folder_of_pictures_is_read_in_sorted_order(tmp_path):
    for name, label in (("b.png", 2), ("a.png", 1)):
        save(tmp_path / name, np.full((4, 4), label))
    maps = MAPS.from_user(segmentation=tmp_path)["label_map"]
    assert maps[:, 0, 0].tolist() == [1, 2]
