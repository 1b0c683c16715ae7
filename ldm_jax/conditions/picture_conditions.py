# SPDX-License-Identifier: Apache-2.0
"""The conditions that are pictures: joined to z_t channel by channel.

Rows of the table in conditioning.py.
"""

import jax.numpy as jnp

from ldm_jax.conditions import user_inputs
from ldm_jax.conditions.base import Conditioner
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.conditioners import SpatialRescaler
from ldm_jax.types import Array, Batch, Conditioning


def semantic_condition(
    num_classes: int,
    f: int,
    out_channels: int | None = 3,
    use_bias: bool = False,
    class_names: tuple[str, ...] = (),
) -> Conditioner:
    """Makes a label map [B, H, W] into channels [B, H/f, W/f, k].

    Args:
      num_classes: labels are in [0, num_classes); any other says nothing.
      f: downsampling of the first stage, a power of two.
      out_channels, use_bias: see `SpatialRescaler`; the published models have 3
        channels without a bias.
      class_names: for error messages.
    """
    if f < 1 or f & (f - 1):
        raise ValueError(f"f must be a power of two: got {f}.")
    rescaler = SpatialRescaler(f.bit_length() - 1, num_classes, out_channels, use_bias)

    def null(batch):
        # int32: in the map's own uint8 the number 256 would wrap around to class 0.
        zeros = jnp.zeros_like(batch["label_map"], jnp.int32)
        return {"label_map": zeros + num_classes}

    return Conditioner(
        kind="semantic",
        fields=("label_map",),
        module=rescaler,
        module_input="label_map",
        encode_fields=lambda apply, batch, frozen: Conditioning(
            concat=apply(batch["label_map"].astype(jnp.int32))
        ),
        null_fields=null,
        from_user=lambda segmentation: user_inputs.label_maps(
            segmentation, num_classes, f
        ),
        image_size=lambda batch: batch["label_map"].shape[1:3],
    )


def superres_condition(f: int = 4) -> Conditioner:
    """Joins a small image [B, h, w, 3] in [-1, 1], of the latent's size, to z_t.

    The published model enlarges four times with f = 4, so that the two sizes agree.

    Args:
      f: downsampling of the first stage, and factor of the enlargement.
    """

    def image_size(batch):
        height, width = batch["low_res"].shape[1:3]
        return f * height, f * width

    return Conditioner(
        kind="superres",
        fields=("low_res",),
        encode_fields=lambda apply, batch, frozen: Conditioning(
            concat=batch["low_res"]
        ),
        null_fields=lambda batch: {"low_res": jnp.zeros_like(batch["low_res"])},
        from_user=lambda low_res: user_inputs.images(low_res),
        image_size=image_size,
    )


def inpaint_condition(
    autoencoder: Autoencoder | dict, latent_scale: float | None = 1.0
) -> Conditioner:
    """Joins the latent of an image with its hole blackened, and the mask, to z_t.

    `image` is [B, H, W, 3] in [-1, 1]; `mask` is [B, H, W, 1], 1 in the hole, 0 where
    the image is kept. The mask enters as -1 and 1, every f-th pixel of it: that is how
    PyTorch's nearest resizing shrinks, and how the published model was trained.

    Args:
      autoencoder: the first stage (or its fields); its parameters come in as
        frozen["autoencoder"].
      latent_scale: what its latents are multiplied by; 1 for the published VQ model.
        None until it was measured, see `experiment.resolve`.
    """
    network = (
        autoencoder
        if isinstance(autoencoder, Autoencoder)
        else Autoencoder(**autoencoder)
    )

    def encode(apply, batch, frozen):
        if "autoencoder" not in frozen:
            raise ValueError(
                'the "inpaint" condition needs frozen["autoencoder"], the first '
                f"stage's parameters: got {sorted(frozen)}."
            )
        hole = batch["mask"] >= 0.5
        seen = jnp.where(hole, -1.0, batch["image"])
        variables = {"params": frozen["autoencoder"]}
        moments = network.apply(variables, seen, method="encode")
        latent = latent_scale * network.regularizer.sample(moments, None)
        mask = jnp.where(hole, 1.0, -1.0)[:, :: network.f, :: network.f]
        return Conditioning(concat=jnp.concatenate([latent, mask], axis=-1))

    return Conditioner(
        kind="inpaint",
        fields=("image", "mask"),
        reads_frozen=("autoencoder",),
        encode_fields=encode,
        null_fields=lambda batch: {"mask": jnp.ones_like(batch["mask"])},
        from_user=lambda image, mask: user_inputs.holes(image, mask, network.f),
        finish=keep_outside,
        image_size=lambda batch: batch["image"].shape[1:3],
    )


def keep_outside(batch: Batch, painted: Array) -> Array:
    """Puts the image back where it was not to be painted, to the last of 256 levels.

    Source: scripts/inpaint.py of the released code.
    """
    # A hair up: pixels are cut, not rounded, to bytes, and float32 may lie below.
    return jnp.where(batch["mask"] >= 0.5, painted, batch["image"] + 1e-6)
