# SPDX-License-Identifier: Apache-2.0
"""Inpainting: the latent of an image with a hole, and the mask, joined to z_t."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ldm_jax.conditions.base import Condition
from ldm_jax.conditions.fields import Field
from ldm_jax.conditions.user_inputs import (
    check_sides,
    pictures,
    side_by_side,
    stack,
    to_image,
    to_mask,
)
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.types import Array, Batch, Conditioning


@dataclasses.dataclass(frozen=True)
class Inpainting(Condition):
    """The latent of an image with a black hole, and the mask; null is all hole.

    `image` is [B, H, W, 3] in [-1, 1]; `mask` is [B, H, W, 1], 1 in the hole, 0 where
    the image is kept. The mask is an input as -1 and 1, with every f-th pixel of it,
    which is PyTorch's nearest resizing, as the published model was trained.

    Attributes:
      autoencoder: the first stage, or a mapping of its fields; parameters come as
        frozen["autoencoder"].
      latent_scale: factor of its latents; 1 for the published VQ model. None until it
        is measured, see `experiment.resolve`.
    """

    autoencoder: Autoencoder | Any
    latent_scale: float | None = 1.0

    kind: ClassVar = "inpaint"
    fields: ClassVar = {
        "image": Field(
            keyword="image",
            flag="image",
            axes=("B", "H", "W", 3),
            dtype="float32",
            doc="image with a hole, or a folder of them",
            example="photo.png",
        ),
        "mask": Field(
            keyword="mask",
            flag="mask",
            axes=("B", "H", "W", 1),
            dtype="float32",
            doc="PNG, white in the hole, or a folder of them",
            example="hole.png",
        ),
    }
    record_fields: ClassVar = {
        "image": "open images, or latents that store them",
        "mask": "config.transform.mask draws it",
    }
    drawn_anew: ClassVar = ("mask",)

    @property
    def reads_frozen(self) -> tuple[str, ...]:
        return ("autoencoder",)

    @functools.cached_property
    def network(self) -> Autoencoder:
        """The first stage."""
        if isinstance(self.autoencoder, Autoencoder):
            return self.autoencoder
        return Autoencoder(**self.autoencoder)

    def __post_init__(self):
        assert self.network  # its fields are checked when it is made

    def encode_fields(
        self, apply: Callable[[Array], Array], batch: Batch, frozen: Mapping[str, Any]
    ) -> Conditioning:
        hole = batch["mask"] >= 0.5
        seen = jnp.where(hole, -1.0, batch["image"])
        variables = {"params": frozen["autoencoder"]}
        moments = self.network.apply(variables, seen, method="encode")
        assert self.latent_scale is not None  # it is measured before a run is made
        latent = self.latent_scale * self.network.bottleneck_layer.sample(moments, None)
        f = self.network.f
        mask = jnp.where(hole, 1.0, -1.0)[:, ::f, ::f]
        return Conditioning(concat=jnp.concatenate([latent, mask], axis=-1))

    def null_fields(self, batch: Batch) -> Batch:
        return {"mask": jnp.ones_like(batch["mask"])}

    def from_user(self, image: Any, mask: Any) -> dict[str, np.ndarray]:
        """Reads images and masks: files, folders or uint8 arrays.

        A mask is white where the image is to be painted, split at half grey.

        Returns:
          {"image": float32 [B, H, W, 3] in [-1, 1], "mask": float32 [B, H, W, 1], 1 in
          the hole}.

        Raises:
          ValueError: there are not as many masks as images, or their sizes differ.
        """
        images, masks = pictures(image), pictures(mask)
        if len(images) != len(masks):
            raise ValueError(
                f"every image takes one mask: got {len(images)} images and "
                f"{len(masks)} masks."
            )
        images = [to_image(item) for item in images]
        masks = [to_mask(item) for item in masks]
        for picture, hole in zip(images, masks, strict=True):
            if picture.shape[:2] != hole.shape[:2]:
                raise ValueError(
                    "a mask must have the size of its image: got "
                    f"{side_by_side(hole)} for an image of {side_by_side(picture)}; "
                    "resize the mask (nearest)."
                )
            check_sides(picture.shape, self.network.f, "the image")
        return {"image": stack(images, "images"), "mask": stack(masks, "masks")}

    def finish(
        self, batch: Batch, image: Float[Array, "B H W 3"]
    ) -> Float[Array, "B H W 3"]:
        """Puts the image back outside of the hole, to the last of 256 levels.

        Source: scripts/inpaint.py of the released code.
        """
        # A hair up: pixels are cut, not rounded, to bytes, and float32 may be below.
        return jnp.where(batch["mask"] >= 0.5, image, batch["image"] + 1e-6)

    def image_size(self, batch: Mapping[str, Any]) -> tuple[int, int]:
        return batch["image"].shape[1:3]
