# SPDX-License-Identifier: Apache-2.0
"""Small images that users give."""

import numpy as np
import pytest

from ldm_jax.conditions.registry import make_condition
from tests.conditions.examples import save

SMALL = make_condition("superres")


def test_small_image_is_read_into_minus_one_to_one(tmp_path):
    file = save(tmp_path / "small.png", [[[0, 255, 0]]])
    assert SMALL.from_user(low_res=file)["low_res"].tolist() == [[[[-1, 1, -1]]]]


def test_files_that_are_no_images_are_refused(tmp_path):
    file = tmp_path / "broken.png"
    file.write_bytes(b"not a picture")
    with pytest.raises(ValueError, match="must be readable"):
        SMALL.from_user(low_res=file)
    with pytest.raises(ValueError, match=r"no nowhere\.png"):
        SMALL.from_user(low_res="nowhere.png")
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\]"):
        SMALL.from_user(low_res=np.zeros((2, 2, 3)))
