# SPDX-License-Identifier: Apache-2.0
"""Super-resolution: a small image, joined to z_t as channels."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.conditions.base import Condition
from ldm_jax.conditions.fields import MAX_WIDTH, Field, check_counts
from ldm_jax.conditions.user_inputs import pictures, stack, to_image
from ldm_jax.types import Array, Batch, Conditioning


@dataclasses.dataclass(frozen=True)
class SuperResolution(Condition):
    """A small image [B, h, w, 3] in [-1, 1], of the latent's size; null is mid-grey.

    The published model enlarges four times with f = 4, so that the two sizes agree.

    Attributes:
      f: factor of the enlargement; of latents the downsampling of the first stage.
      enlarge: how often the small image is enlarged (bicubically) before it is joined
        to z_t: f for a model of pixels, 1 for one of latents.

    Raises:
      ValueError: `enlarge` is neither 1 nor f.
    """

    f: int = 4
    enlarge: int = 1

    kind: ClassVar = "superres"
    fields: ClassVar = {
        "low_res": Field(
            keyword="low_res",
            flag="low-res",
            axes=("B", "h", "w", 3),
            dtype="float32",
            doc="small image to enlarge, or a folder of them",
            example="small.png",
        )
    }
    record_fields: ClassVar = {"low_res": "config.transform.low_res makes it"}

    def __post_init__(self):
        check_counts(self, f=MAX_WIDTH, enlarge=MAX_WIDTH)
        if self.enlarge not in (1, self.f):
            raise ValueError(
                f"condition.enlarge must be 1 (latents) or f={self.f} (pixels): got "
                f"{self.enlarge}."
            )

    def encode_fields(
        self, apply: Callable[[Array], Array], batch: Batch, frozen: Mapping[str, Any]
    ) -> Conditioning:
        image = jnp.asarray(batch["low_res"])
        if self.enlarge > 1:
            batch_size, h, w, channels = image.shape
            size = (batch_size, self.enlarge * h, self.enlarge * w, channels)
            image = jax.image.resize(image, size, "cubic")
        return Conditioning(concat=image)

    def shapes(
        self, batch_size: Any, image_size: tuple[int, int], f: int
    ) -> dict[str, jax.ShapeDtypeStruct]:
        return super().shapes(batch_size, image_size, f * self.enlarge)

    def null_fields(self, batch: Batch) -> Batch:
        return {"low_res": jnp.zeros_like(batch["low_res"])}

    def from_user(self, low_res: Any) -> dict[str, np.ndarray]:
        """Reads files, a folder, or uint8 [h, w, 3].

        Returns:
          {"low_res": float32 [B, h, w, 3] in [-1, 1]}.
        """
        images = [to_image(item) for item in pictures(low_res)]
        return {"low_res": stack(images, "images")}

    def image_size(self, batch: Mapping[str, Any]) -> tuple[int, int]:
        height, width = batch["low_res"].shape[1:3]
        return self.f * height, self.f * width
