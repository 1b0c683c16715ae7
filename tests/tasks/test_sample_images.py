# SPDX-License-Identifier: Apache-2.0
"""Samples do not depend on the batch size; the next batch is computed meanwhile."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ldm_jax
from ldm_jax.tasks import generate
from ldm_jax.tasks import sample_images as module
from ldm_jax.tasks.sample_images import fitting_batch_size, sample_images
from ldm_jax.tasks.sampling import make_sampling

NUM = 19


@pytest.fixture(scope="module")
def digits():
    return ldm_jax.load("digits")


def draw(digits, batch_size):
    model, params = digits
    labels, seeds = {"label": np.arange(NUM, dtype=np.int32) % 10}, np.arange(NUM)
    sampling = make_sampling(num_steps=2)
    return sample_images(model, params, labels, seeds, (8, 8, 2), sampling, batch_size)


def test_an_image_is_the_same_in_batches_of_any_size(digits):
    """Identity; 19 images in batches of 8 end in one of 3, filled up and cut."""
    small, large = list(draw(digits, 8)), list(draw(digits, 32))
    assert [len(batch) for batch in small] == [8, 8, 3] and len(large) == 1
    difference = np.concatenate(small).astype(int) - large[0]
    assert np.abs(difference).max() <= 1  # a level: sums of another order


def test_the_next_batch_is_started_before_one_is_handed_out(digits, monkeypatch):
    started = []

    def make_generate(*arguments):
        def generate(params, y, keys, given):
            started.append(len(keys))
            return jnp.zeros((len(keys), 16, 16, 3))

        return generate

    monkeypatch.setattr(generate, "make_generate", make_generate)
    counts = [len(started) for _ in draw(digits, 8)]
    assert counts == [2, 3, 3] and started == [8, 8, 8]


def fitting(digits, num):
    model, params = digits
    labels = {"label": np.zeros(1, np.int32)}
    sampling = make_sampling(num_steps=2)
    return fitting_batch_size(model, params, labels, num, (8, 8, 2), sampling)


def test_a_batch_that_fits_is_sampled_in_one(digits):
    """9 images on 8 devices: 2 for each."""
    assert fitting(digits, 9) == 16


def make_small_program(*arguments):
    """Replaces `make_generate`: a program that needs 4 KiB for an image."""

    def generate(params, y, keys, given):
        pixels = jax.random.key_data(keys)[:, :1].astype(jnp.float32)
        return jnp.broadcast_to(pixels, (len(keys), 1024))

    return jax.jit(generate)


def test_the_batch_that_fits_follows_the_wish_and_the_free_memory(digits, monkeypatch):
    """A power of two for each of 8 devices, at most 64; 0.8 of the memory is filled."""
    monkeypatch.setattr(generate, "make_generate", make_small_program)

    def sizes(free, nums):
        monkeypatch.setattr(module, "free_bytes", lambda: free)
        return [fitting(digits, num) // 8 for num in nums]

    assert sizes(2**40, (1, 8, 17, 100, 10_000)) == [1, 1, 4, 16, 64]
    assert sizes(None, (1, 10_000)) == sizes(0, (1, 10_000)) == [1, module.PROBE]
    assert sizes(2**12 * 32 / 0.8, (10_000,)) == [32]
    assert sizes(2**12 * 31 / 0.8, (10_000,)) == [16]


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_parameters_that_are_not_finite_are_named_where_images_are_not(digits, value):
    model, params = digits
    kernel = params["unet"]["conv_in"]["kernel"]
    conv = {**params["unet"]["conv_in"], "kernel": np.full_like(kernel, value)}
    unet = {**params["unet"], "conv_in": conv}
    damaged = model, {**params, "unet": unet}
    with pytest.raises(ValueError, match=r"1 of .*first unet/conv_in/kernel; take"):
        next(iter(draw(damaged, 8)))
