# SPDX-License-Identifier: Apache-2.0
"""Inpainting: inputs of the denoiser, kept pixels, and inputs of users."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditions.fields import FirstStageFields
from ldm_jax.conditions.registry import make_condition
from ldm_jax.data.transforms.pixels import to_unit_range
from ldm_jax.files.formats.png import to_uint8
from ldm_jax.models.autoencoder import Autoencoder
from tests.conditions.examples import (
    FIRST_STAGE,
    KINDS,
    batch,
    frozen,
    make,
    save,
)


def test_inpainting_hides_the_hole_and_slices_the_mask():
    """Golden: masked image encoded, mask as -1 and 1 (hole) at every f-th pixel.

    Source: latent-diffusion, scripts/inpaint.py.
    """
    condition, params, y = make("inpaint")
    encode = jax.jit(condition.encode)
    cond = encode(params, y, frozen()).concat
    np.testing.assert_array_equal(cond[..., 3:], 2 * y["mask"][:, ::2, ::2] - 1)
    first_stage = Autoencoder(**FIRST_STAGE)
    variables = {"params": frozen()["autoencoder"]}
    masked = (1 - y["mask"]) * (y["image"] + 1) / 2 * 2 - 1
    latent = jax.jit(first_stage.apply, static_argnames="method")(
        variables, masked, method="encode"
    )
    np.testing.assert_allclose(cond[..., :3], 0.5 * latent, atol=1e-5)
    other = {**y, "image": jnp.where(y["mask"] > 0.5, 0.3, y["image"])}
    again = encode(params, other, frozen()).concat
    np.testing.assert_array_equal(cond, again)


def test_what_is_outside_of_the_hole_keeps_each_of_its_256_levels():
    """Identity: through floats, the paste, and the cut to bytes."""
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    mask = np.zeros((1, 16, 16, 1), np.float32)
    mask[:, 3] = 1
    y = {"image": to_unit_range(levels), "mask": mask}
    painter = make_condition("inpaint", **KINDS["inpaint"])
    finished = to_uint8(jax.jit(painter.finish)(y, jnp.full(levels.shape, -1.0)))
    np.testing.assert_array_equal(finished, np.where(mask > 0, 0, levels))


def test_the_latent_of_an_image_with_a_hole_is_scaled_as_the_models_own():
    """Imported models name their first stage, and the original does not scale there."""
    y = batch()
    first_stage = FirstStageFields(Autoencoder(**FIRST_STAGE), 3.0)
    plain, scaled = (
        jax.jit(make_condition("inpaint", first_stage, **own).encode)({}, y, frozen())
        for own in (dict(autoencoder=FIRST_STAGE), {})
    )
    np.testing.assert_allclose(
        scaled.concat[..., :3], 3 * plain.concat[..., :3], rtol=1e-5, atol=1e-6
    )


def painter(f):
    """An inpainting condition whose first stage downsamples f times."""
    levels = (1,) * f.bit_length()
    return make_condition(
        "inpaint", autoencoder={**FIRST_STAGE, "channel_mult": levels}
    )


def test_mask_is_one_where_the_file_is_white(tmp_path):
    image = save(tmp_path / "image.png", np.zeros((2, 2, 3)))
    mask = save(tmp_path / "mask.png", [[0, 127], [128, 255]])
    fields = painter(f=2).from_user(image=image, mask=mask)
    assert fields["mask"][0, ..., 0].tolist() == [[0, 0], [1, 1]]
    assert fields["image"].shape == (1, 2, 2, 3)


def test_masks_that_do_not_fit_are_refused():
    image, mask = np.zeros((4, 4, 3), np.uint8), np.zeros((2, 4), bool)
    with pytest.raises(ValueError, match=r"size of its image: got 2x4 .* of 4x4"):
        painter(f=2).from_user(image=image, mask=mask)
    with pytest.raises(ValueError, match="1 images and 2 masks"):
        painter(f=2).from_user(image=image, mask=[mask, mask])
    with pytest.raises(ValueError, match="255 in the hole, or bool"):
        painter(f=2).from_user(image=image, mask=np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="multiples of 8"):
        painter(f=8).from_user(image=image, mask=np.zeros((4, 4), bool))
