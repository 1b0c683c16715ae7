# SPDX-License-Identifier: Apache-2.0
"""Reconstruction metrics against values worked out by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.metrics.reconstruction import ms_ssim, psnr, ssim


def test_psnr_of_a_constant_error():
    image = jnp.zeros((2, 4, 4, 3))
    errors = jnp.asarray([0.2, 0.02])[:, None, None, None] * jnp.ones_like(image)
    # 20 log10(2 / 0.2) and ten times closer, 20 dB more.
    np.testing.assert_allclose(psnr(image, image + errors), [20, 40], rtol=1e-5)


def test_psnr_clamps_as_a_picture_does_and_is_infinite_for_equal_images():
    image = jnp.ones((1, 4, 4, 3))
    assert jnp.isinf(psnr(image, image + 5)).all()


def pictures(height=192, width=208):
    """Two blurry images and noisy copies, [2, H, W, 3] in [-1, 1] each."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(-1, 1, (2, height // 16, width // 16, 3))
    image = np.repeat(np.repeat(coarse, 16, axis=1), 16, axis=2)
    image[:, :, 1:] = (image[:, :, 1:] + image[:, :, :-1]) / 2
    noisy = np.clip(image + 0.2 * rng.normal(size=image.shape), -1, 1)
    return image.astype(np.float32), noisy.astype(np.float32)


# Of intensities in [0, 1]: scikit-image 0.26, structural_similarity with Gaussian
# weights of sigma 1.5 and population variances;
# pytorch-msssim 1.0, ms_ssim.
SSIM = [0.45656991, 0.44745212]
MS_SSIM = [0.92962991, 0.92773986]


def test_structural_similarities_are_those_of_other_implementations():
    image, noisy = pictures()
    # float32 against float64: variances are small differences of squares.
    np.testing.assert_allclose(ssim(image, noisy), SSIM, rtol=1e-4)
    np.testing.assert_allclose(ms_ssim(image, noisy), MS_SSIM, rtol=1e-4)
    np.testing.assert_allclose(ssim(image, image), 1, rtol=1e-5)
    np.testing.assert_allclose(ms_ssim(image, image), 1, rtol=1e-5)


@pytest.mark.torch
def test_similarities_agree_with_other_implementations():
    torch = pytest.importorskip("torch")
    theirs_ms = pytest.importorskip("pytorch_msssim").ms_ssim
    metrics = pytest.importorskip("skimage.metrics")
    image, noisy = pictures()
    expected = [
        metrics.peak_signal_noise_ratio(x, y, data_range=2)
        for x, y in zip(image, noisy, strict=True)
    ]
    np.testing.assert_allclose(psnr(image, noisy), expected, rtol=1e-5)
    how = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    expected = [
        metrics.structural_similarity(x, y, data_range=1, channel_axis=-1, **how)
        for x, y in zip(image / 2 + 0.5, noisy / 2 + 0.5, strict=True)
    ]
    np.testing.assert_allclose(ssim(image, noisy), expected, rtol=1e-4)
    x, y = (torch.tensor(a).permute(0, 3, 1, 2) / 2 + 0.5 for a in (image, noisy))
    expected = theirs_ms(x, y, data_range=1.0, size_average=False)
    np.testing.assert_allclose(ms_ssim(image, noisy), expected, rtol=1e-4)


def test_similarities_fall_with_noise_and_with_blur():
    image, noisy = (jnp.asarray(x[:, :32, :32]) for x in pictures(32, 32))
    worse = image + 2 * (noisy - image)
    blurred = (image + jnp.roll(image, 3, axis=1) + jnp.roll(image, 3, axis=2)) / 3
    for measure in (psnr, ssim):
        assert (measure(image, worse) < measure(image, noisy)).all()
        assert (measure(image, blurred) < measure(image, image)).all()


def test_images_too_small_for_a_window_are_refused():
    small = jnp.zeros((1, 10, 32, 3))
    with pytest.raises(ValueError, match="at least 11x11 pixels: got 10x32"):
        ssim(small, small)
    odd = jnp.zeros((1, 176, 180, 3))
    with pytest.raises(ValueError, match="multiple of 16, at least 176"):
        ms_ssim(odd, odd)
