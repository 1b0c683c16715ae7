# SPDX-License-Identifier: Apache-2.0
"""Finished images are paired by name, and by position where no name is the same."""

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data.images.finished_images import open_pairs, open_set


def folder(path, **values):
    """Writes pictures of one grey value each, by name."""
    for name, value in values.items():
        file = path / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((2, 2, 3), value, np.uint8)).save(file)
    return path


def greys(images):
    return np.concatenate(list(images.batches(2)))[:, 0, 0, 0].tolist()


def test_pairs_have_the_same_name_and_further_images_are_left_out(tmp_path):
    images = open_set(folder(tmp_path / "a", b=1, c=2, d=3))
    others = folder(tmp_path / "b", a=9, b=1, c=2, d=3)
    assert greys(open_pairs(images, others)) == greys(images) == [1, 2, 3]


def test_numbers_are_compared_as_numbers(tmp_path):
    """By position 10 would come before 2."""
    images = folder(tmp_path / "a", **{f"{i:06d}": i for i in range(12)})
    others = folder(tmp_path / "b", **{str(i): i for i in range(12)})
    assert greys(open_pairs(open_set(images), others)) == list(range(12))


def test_names_of_which_only_some_match_are_refused(tmp_path):
    images = open_set(folder(tmp_path / "a", **{"0": 0, "1": 1, "2": 2, "3": 3}))
    others = folder(tmp_path / "b", **{"1": 1, "2": 2, "3": 3, "4": 4})
    with pytest.raises(ValueError, match=r"1 of 4 have no counterpart \(0\)"):
        open_pairs(images, others)


def test_names_of_which_none_match_are_paired_by_position(tmp_path):
    images = open_set(folder(tmp_path / "a", x=1, y=2))
    assert greys(open_pairs(images, folder(tmp_path / "b", p=3, q=4, r=5))) == [3, 4]


def test_two_others_of_one_name_are_refused(tmp_path):
    images = open_set(folder(tmp_path / "a", **{"1": 1}))
    with pytest.raises(ValueError, match="the same name twice"):
        open_pairs(images, folder(tmp_path / "b", **{"1": 1, "01": 2}))


def test_an_array_is_paired_by_position(tmp_path):
    images = open_set(folder(tmp_path / "a", x=1, y=2))
    np.savez(tmp_path / "b.npz", np.full((2, 2, 2, 3), 7, np.uint8))
    assert greys(open_pairs(images, tmp_path / "b.npz")) == [7, 7]
