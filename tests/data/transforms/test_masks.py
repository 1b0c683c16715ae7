# SPDX-License-Identifier: Apache-2.0
"""Holes are LaMa's: of its shapes and, on average, of its sizes."""

import numpy as np
import pytest

from ldm_jax.data.transforms.image_transform import ImageTransform
from ldm_jax.data.transforms.masks import KINDS, draw_mask


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("size", [(256, 256), (64, 96)])
def test_a_mask_is_of_zeros_and_ones(kind, size):
    for seed in range(10):
        mask = draw_mask(kind, size, np.random.default_rng(seed))
        assert mask.shape == (*size, 1) and mask.dtype == np.float32
        assert set(np.unique(mask)) <= {0, 1} and 0 < mask.mean() < 1


def test_a_mask_is_a_pure_function_of_its_randomness():
    first, again, other = (
        draw_mask("thick", (64, 64), np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("kind", "area", "error"),
    [
        ("train", 0.3535, 0.0037),
        ("thin", 0.2972, 0.0025),
        ("medium", 0.2382, 0.0025),
        ("thick", 0.3964, 0.0040),
    ],
)
def test_the_mean_hole_is_as_large_as_lamas(kind, area, error):
    """Golden: mean and standard error of 3000 masks of LaMa's rules by OpenCV."""
    areas = [
        draw_mask(kind, (256, 256), np.random.default_rng(i)).mean() for i in range(300)
    ]
    own_error = np.std(areas) / np.sqrt(300)
    assert abs(np.mean(areas) - area) < 3 * np.hypot(error, own_error)


def test_holes_grow_with_the_image():
    for kind in KINDS:
        small, large = (
            np.mean(
                [
                    draw_mask(kind, (n, n), np.random.default_rng(s)).mean()
                    for s in range(60)
                ]
            )
            for n in (128, 256)
        )
        assert abs(small / large - 1) < 0.25, kind  # 60 masks of wide spread


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="one of: train, thin, medium, thick"):
        draw_mask("fat", (8, 8), np.random.default_rng(0))
    with pytest.raises(ValueError, match="one of: train, thin, medium, thick"):
        ImageTransform(8, mask="fat")


def test_the_transform_draws_a_mask():
    record = {"image": np.zeros((32, 32, 3), np.uint8)}
    result = ImageTransform(32, mask="thick")(record, np.random.default_rng(0))
    assert result["mask"].shape == (32, 32, 1)
