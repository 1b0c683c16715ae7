# SPDX-License-Identifier: Apache-2.0
"""Latents that carry pictures along, of which a condition is made in training."""

import numpy as np
import pytest

from ldm_jax.data.latents.source import LatentTransform, open_latents
from ldm_jax.data.latents.write import LatentJob, write_latents
from ldm_jax.data.transforms.geometry import mirror_field
from ldm_jax.data.transforms.image_transform import ImageTransform
from ldm_jax.data.transforms.pixels import from_unit_range, to_unit_range


class Photos:
    """8x8 images of noise."""

    fingerprint = "photos"

    def __init__(self):
        shape = (4, 8, 8, 3)
        self.images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index]}

    def __getitems__(self, indices):
        return [self[i] for i in indices]


def write(directory, keep_image):
    transform = ImageTransform(8, low_res="pil_box", low_res_factor=2)
    settings = dict(latent_channels=3, autoencoder="a1", batch_size=4)
    job = LatentJob(**settings, keep_image=keep_image)
    write_latents(lambda x: x[:, ::2, ::2], Photos(), transform, str(directory), job)
    return open_latents(directory)[0]


def test_every_level_survives_the_way_to_floats_and_back():
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(from_unit_range(to_unit_range(levels)), levels)


def test_pictures_are_stored_as_bytes_and_come_back_exactly(tmp_path):
    source, images = write(tmp_path, keep_image=True), Photos().images
    record = source[1]
    assert record["image"].dtype == record["low_res"].dtype == np.uint8
    np.testing.assert_array_equal(record["image"], images[1])
    cases = set()
    for seed in range(12):
        example = LatentTransform()(record, np.random.default_rng(seed))
        # The mirror image's latent comes with the mirrored pictures, always.
        seen = np.array_equal(example["image"], to_unit_range(images[1]))
        mirrored = mirror_field("image", to_unit_range(images[1]))
        assert seen or np.array_equal(example["image"], mirrored)
        np.testing.assert_allclose(
            example["moments"], example["image"][::2, ::2], atol=1e-3
        )
        blocks = example["image"].reshape(4, 2, 4, 2, 3).mean((1, 3))
        # Pillow rounds after either of two passes: a level of 1 / 127.5 in all.
        np.testing.assert_allclose(example["low_res"], blocks, atol=1.01 / 127.5)
        cases.add(seen)
    assert cases == {True, False}


def test_new_holes_are_drawn_each_time_and_equal_ones_for_a_seed(tmp_path):
    record = write(tmp_path, keep_image=True)[0]
    transform = LatentTransform(flip=False, mask="train")
    masks = [
        transform(record, np.random.default_rng(seed))["mask"] for seed in (0, 0, 1, 2)
    ]
    assert masks[0].shape == (8, 8, 1) and set(np.unique(masks)) == {0.0, 1.0}
    np.testing.assert_array_equal(masks[0], masks[1])
    assert any(not np.array_equal(masks[0], other) for other in masks[2:])


def test_a_hole_in_an_image_that_was_not_stored_is_refused(tmp_path):
    record = write(tmp_path, keep_image=False)[0]
    assert "image" not in record and "low_res" in record
    with pytest.raises(ValueError, match="a mask needs the image"):
        LatentTransform(mask="train")(record, np.random.default_rng(0))
