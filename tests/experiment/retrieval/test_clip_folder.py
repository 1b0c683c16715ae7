# SPDX-License-Identifier: Apache-2.0
"""How patches are resized for CLIP; the towers: tests/commands/evaluation."""

import numpy as np
import pytest

from ldm_jax.experiment.retrieval import clip_folder
from ldm_jax.experiment.retrieval.clip_folder import aligned_bicubic, make_towers


@pytest.mark.parametrize(("length", "size"), [(5, 9), (16, 7), (256, 224), (3, 3)])
def test_the_corners_of_a_patch_stay(length, size):
    """Identity: rows sum to 1, ends map to ends, a line stays a line inside."""
    matrix = aligned_bicubic(length, size)
    np.testing.assert_allclose(matrix.sum(1), 1)
    np.testing.assert_allclose(matrix[[0, -1]] @ np.arange(length), [0, length - 1])
    if length > 4:
        line = matrix @ np.arange(length)
        place = np.arange(size) * (length - 1) / (size - 1)
        inside = (place >= 1) & (place <= length - 2)
        np.testing.assert_allclose(line[inside], place[inside], atol=0.1)


def test_the_kernel_is_torchs():
    """Golden: torch's interpolate(bicubic, align_corners=True) of an impulse."""
    result = aligned_bicubic(6, 9) @ np.eye(6)[2]
    first = [0.0, -0.10986328125, 0.26171875, 0.96728515625, 0.59375]
    last = [-0.07177734375, -0.03515625, 0.0, 0.0]
    np.testing.assert_allclose(result, first + last, atol=1e-6)


def test_what_a_config_leaves_out_is_that_of_vit_b_32():
    image, text = make_towers({})
    assert (image.patch, image.width, image.pooled) == (32, 768, 512)
    assert (text.width, text.num_heads, text.length) == (512, 8, 77)


def test_images_are_resized_and_cropped_in_the_center():
    image = np.zeros((8, 16, 3), np.uint8)
    image[:, 4:12] = 255
    small = clip_folder._square(image, 4)
    assert small.shape == (4, 4, 3) and small[:, 1:3].min() > 200
