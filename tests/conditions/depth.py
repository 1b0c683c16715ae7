# SPDX-License-Identifier: Apache-2.0
"""A condition of the tests' own: depth maps. This file and one row are all it takes."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from ldm_jax.conditions.base import Condition
from ldm_jax.conditions.fields import Field
from ldm_jax.conditions.user_inputs import pictures, stack, to_image
from ldm_jax.types import Conditioning


@dataclasses.dataclass(frozen=True)
class Depth(Condition):
    """A depth map [B, H, W, 1] in [0, 1], joined to z_t at every f-th pixel.

    Attributes:
      f: downsampling of the first stage.
    """

    f: int

    kind: ClassVar = "depth"
    fields: ClassVar = {
        "depth": Field(
            keyword="depth",
            flag="depth",
            axes=("B", "H", "W", 1),
            dtype="float32",
            doc="grey picture of depths, black is near, or a folder of them",
        )
    }
    record_fields: ClassVar = {"depth": "it is estimated from the image"}

    def encode_fields(self, apply, batch, frozen):
        return Conditioning(concat=batch["depth"][:, :: self.f, :: self.f])

    def null_fields(self, batch):
        return {"depth": jnp.ones_like(batch["depth"])}

    def prepare(self, record):
        """Uses brightness as depth where a record has no depth map."""
        if "depth" not in record and "image" in record:
            depth = (record["image"].mean(-1, keepdims=True) + 1) / 2
            record = {**record, "depth": depth.astype(np.float32)}
        return super().prepare(record)

    def from_user(self, depth):
        maps = [(to_image(item)[..., :1] + 1) / 2 for item in pictures(depth)]
        return {"depth": stack(maps, "depth maps")}

    def image_size(self, batch):
        return batch["depth"].shape[1:3]
