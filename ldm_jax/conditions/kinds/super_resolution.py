# SPDX-License-Identifier: Apache-2.0
"""Super-resolution: a small image, joined to z_t as channels."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

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
      f: downsampling of the first stage, and factor of the enlargement.
    """

    f: int = 4

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
        check_counts(self, f=MAX_WIDTH)

    def encode_fields(
        self, apply: Callable[[Array], Array], batch: Batch, frozen: Mapping[str, Any]
    ) -> Conditioning:
        return Conditioning(concat=batch["low_res"])

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
