# SPDX-License-Identifier: Apache-2.0
"""Reductions are OpenCV's, Pillow's and BSRGAN's."""

import pathlib
import sys

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from ldm_jax.data.transforms import bsrgan, opencv
from ldm_jax.data.transforms.degradations import (
    DEGRADATIONS,
    check_degradation,
    degrade,
)
from ldm_jax.data.transforms.image_transform import ImageTransform
from ldm_jax.data.transforms.opencv import INTERPOLATIONS, resize_as_opencv
from ldm_jax.data.transforms.pixels import FILTERS, to_unit_range

GOLDEN = pathlib.Path(__file__).parents[2] / "golden" / "opencv_resize.npz"


def rng(seed=0):
    return np.random.default_rng(seed)


def noise(height=32, width=48):
    return rng().integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("name", INTERPOLATIONS)
def test_reducing_by_four_is_opencvs(name):
    """Golden: cv2.resize 5.0.0; its versions differ by one level on uint8."""
    golden = np.load(GOLDEN)
    result = degrade(golden["image"], f"cv_{name}", 4, rng())
    assert abs(result.astype(int) - golden[name]).max() <= 1


@pytest.mark.parametrize("name", INTERPOLATIONS)
def test_reducing_to_any_size_is_opencvs(name):
    """Golden: cv2.resize 5.0.0 in float32, levels of 255."""
    golden = np.load(GOLDEN)
    result = resize_as_opencv(golden["image"].astype(np.float64), (13, 17), name)
    np.testing.assert_allclose(result, golden[f"{name}_float"], atol=1e-3)


@pytest.mark.parametrize("name", sorted(FILTERS))
def test_pillows_reductions_are_pillows(name):
    image = noise()
    expected = Image.fromarray(image).resize((12, 8), FILTERS[name])
    assert np.array_equal(degrade(image, f"pil_{name}", 4, rng()), expected)


def test_the_two_bicubics_differ():
    """Paper's code: only Pillow's antialiases; SPEC of both is not interchangeable."""
    image = noise()
    one, two = (degrade(image, f"{kind}_bicubic", 4, rng()) for kind in ("cv", "pil"))
    assert abs(one.astype(int) - two).max() > 50


def test_enlarging_by_area_is_opencvs():
    """Closed form: areas become blocks, here of two pixels, not a bilinear slope."""
    image = noise(8, 12).astype(np.float64)
    expected = image.repeat(2, axis=0).repeat(2, axis=1)
    assert np.array_equal(resize_as_opencv(image, (16, 24), "area"), expected)


def test_halving_is_an_antialiased_bicubic():
    """Golden: Pillow's, which is MATLAB's but for the border and the rounding."""
    image = noise()
    expected = Image.fromarray(image).resize((24, 16), Image.Resampling.BICUBIC)
    difference = bsrgan.halved(image.astype(np.float64)).clip(0, 255) - expected
    assert abs(difference)[2:-2, 2:-2].max() <= 1


@pytest.mark.parametrize("size", [(16, 16), (7, 5), (1, 1), (2, 3)])
def test_halving_keeps_a_constant(size):
    halved = bsrgan.halved(np.full((*size, 3), 0.7))
    assert halved.shape == (max(1, size[0] // 2), max(1, size[1] // 2), 3)
    np.testing.assert_allclose(halved, 0.7, atol=1e-12)


@pytest.mark.parametrize("kind", ["cv_area", "bsrgan", "bsrgan_light"])
def test_without_opencv_what_needs_it_is_refused_at_once(kind, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    opencv.load_opencv.cache_clear()
    with pytest.raises(ValueError, match=r"ldm_jax\[opencv\]"):
        ImageTransform(32, low_res=kind)
    check_degradation("pil_bicubic")


def test_an_unknown_reduction_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match='"cubic"; one of: cv_nearest'):
        check_degradation("cubic")


@pytest.mark.parametrize("kind", ["bsrgan", "bsrgan_light"])
def test_bsrgan_is_a_pure_function_of_its_randomness(kind):
    image = noise(64, 64)
    first, again, other = (degrade(image, kind, 4, rng(seed)) for seed in (1, 1, 2))
    assert first.shape == (16, 16, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_bsrgan_keeps_the_picture_in_its_place():
    """Oracle: slopes of 12.5 levels per pixel keep their mean, so do not move.

    Half of the light kernels have an even size: they move it by half a pixel, as do
    the released ones.
    """
    y, x = np.mgrid[0:64, 0:64] / 64
    image = to_u8(np.stack([x, y, 0.5 + 0 * x], axis=-1) * 200 + 20)
    plain = degrade(image, "cv_area", 4, rng()).astype(float)
    for kind, pixels in (("bsrgan", 0.08), ("bsrgan_light", 0.25)):
        mean = np.mean([degrade(image, kind, 4, rng(i)) for i in range(60)], axis=0)
        moved = (mean - plain)[3:-3, 3:-3].mean((0, 1)) / 12.5
        assert abs(moved).max() < pixels, (kind, moved)


def to_u8(values):
    return np.rint(values).astype(np.uint8)


def test_light_is_lighter():
    image = degrade(noise(256, 256), "cv_area", 2, rng())
    plain = degrade(image, "cv_area", 4, rng()).astype(float)

    def error(kind):
        result = [degrade(image, kind, 4, rng(i)) for i in range(20)]
        return np.mean([np.square(f - plain).mean() for f in result])

    assert error("bsrgan_light") < error("bsrgan")


@pytest.mark.parametrize("size", [5, 8])
def test_the_blur_is_scipys_with_mirrored_borders(size):
    """Golden: scipy.ndimage.convolve(mode="mirror"), which the released code uses."""
    values, kernel = rng(0).random((20, 30, 3)), rng(1).random((size, size))
    expected = ndimage.convolve(values, kernel[:, :, None], mode="mirror")
    np.testing.assert_allclose(bsrgan._convolved(values, kernel), expected, atol=1e-9)


def test_a_kernel_has_the_requested_variances():
    kernel = bsrgan.gaussian_kernel(25, np.array([4.0, 1.0]), np.pi / 2)
    place = np.arange(25) - 12
    assert abs(kernel.sum() - 1) < 1e-12
    np.testing.assert_allclose((kernel.sum(0) @ place**2), 1.0, rtol=1e-3)
    np.testing.assert_allclose((kernel.sum(1) @ place**2), 4.0, rtol=1e-3)


def test_the_narrowest_kernel_is_finite():
    for size in (5, 6):
        kernel = bsrgan.gaussian_kernel(size, np.array([0.0, 0.0]), 0.3)
        assert np.isfinite(kernel).all() and abs(kernel.sum() - 1) < 1e-12


def test_the_transform_gives_the_low_resolution_image():
    record = {"image": noise(40, 40)}
    for kind in DEGRADATIONS:
        actual = ImageTransform(32, low_res=kind)(record, rng())
        assert actual["low_res"].shape == (8, 8, 3)
        assert actual["low_res"].min() >= -1 and actual["low_res"].max() <= 1
    image = ImageTransform(32, low_res="pil_box", low_res_factor=2)(record, rng())
    assert image["low_res"].shape == (16, 16, 3)
    levels = to_u8((image["image"] + 1) * 127.5)
    expected = to_unit_range(degrade(levels, "pil_box", 2, rng()))
    assert np.array_equal(image["low_res"], expected)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"low_res": "bicubic"}, "one of: cv_nearest"),
        ({"low_res": "pil_box", "low_res_factor": 3}, "divisible"),
    ],
)
def test_a_wrong_degradation_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        ImageTransform(32, **fields)
