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


def test_a_model_of_pixels_reads_the_small_image_enlarged():
    """Identity: enlarged four times, and reduced again, an image is what it was."""
    pixels = make_condition("superres", f=4, enlarge=4)
    small = np.random.default_rng(0).uniform(-1, 1, (2, 6, 4, 3)).astype(np.float32)
    small[:] = small.mean((1, 2), keepdims=True)
    joined = pixels.encode({}, {"low_res": small}).concat
    assert joined.shape == (2, 24, 16, 3)
    np.testing.assert_allclose(joined[:, ::4, ::4], small, atol=1e-6)
    assert pixels.image_size({"low_res": small}) == (24, 16)
    # The first stage of pixels has f = 1.
    assert pixels.shapes(2, (24, 16), 1)["low_res"].shape == (2, 6, 4, 3)
    with pytest.raises(ValueError, match=r"must be 1 \(latents\) or f=4 \(pixels\)"):
        make_condition("superres", f=4, enlarge=2)
