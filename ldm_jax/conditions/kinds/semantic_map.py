# SPDX-License-Identifier: Apache-2.0
"""Semantic maps: the class of every pixel, joined to z_t as channels."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from ldm_jax.conditions.base import Condition
from ldm_jax.conditions.fields import MAX_CLASSES, MAX_WIDTH, Field, check_counts
from ldm_jax.conditions.user_inputs import check_sides, pictures, stack
from ldm_jax.files.formats.pictures import read_label_map
from ldm_jax.models.conditioners import SpatialRescaler
from ldm_jax.types import Array, Batch, Conditioning


@dataclasses.dataclass(frozen=True)
class SemanticMap(Condition):
    """A label map [B, H, W] as channels [B, H/f, W/f, k]; null has no label anywhere.

    Attributes:
      num_classes: labels are in [0, num_classes); any other means "unknown".
      f: downsampling of the first stage, a power of two.
      out_channels, use_bias: see `SpatialRescaler`; the published models have 3
        channels without a bias.
      class_names: for error messages.
    """

    num_classes: int
    f: int
    out_channels: int | None = 3
    use_bias: bool = False
    class_names: tuple[str, ...] = ()

    kind: ClassVar = "semantic"
    fields: ClassVar = {
        "label_map": Field(
            keyword="segmentation",
            flag="segmentation",
            axes=("B", "H", "W"),
            dtype="int32",
            doc="PNG of class numbers, or a folder of them",
            example="map.png",
        )
    }
    record_fields: ClassVar = {
        "label_map": "config.images.label_maps names the label maps of a folder"
    }

    def __post_init__(self):
        check_counts(self, num_classes=MAX_CLASSES, out_channels=MAX_WIDTH)
        if self.f < 1 or self.f & (self.f - 1):
            raise ValueError(f"condition.f must be a power of two: got {self.f}.")

    @property
    def module(self) -> SpatialRescaler:
        num_stages = self.f.bit_length() - 1
        return SpatialRescaler(
            num_stages, self.num_classes, self.out_channels, self.use_bias
        )

    def encode_fields(
        self, apply: Callable[[Array], Array], batch: Batch, frozen: Mapping[str, Any]
    ) -> Conditioning:
        return Conditioning(concat=apply(batch["label_map"].astype(jnp.int32)))

    def null_fields(self, batch: Batch) -> Batch:
        # int32: in the map's own uint8 the number 256 would wrap around to class 0.
        zeros = jnp.zeros_like(batch["label_map"], jnp.int32)
        return {"label_map": zeros + self.num_classes}

    def from_user(self, segmentation: Any) -> dict[str, np.ndarray]:
        """Reads PNG files of class numbers, a folder of them, or int [H, W].

        Returns:
          {"label_map": int32 [B, H, W]}.

        Raises:
          ValueError: a file is not an indexed or grey PNG, a label is unknown, a size
            is not a multiple of f, or the maps differ in size.
        """
        maps = [self._read(item) for item in pictures(segmentation)]
        return {"label_map": stack(maps, "label maps")}

    def _read(self, item: Any) -> np.ndarray:
        where: Any = "the arguments"
        if isinstance(item, (str, pathlib.Path)):
            where, item = item, read_label_map(item)
        labels = np.asarray(item, np.int32)
        known = set(range(self.num_classes + 1))
        unknown = sorted(set(np.unique(labels).tolist()) - known)
        if unknown:
            raise ValueError(
                f"labels of a map are in 0..{self.num_classes - 1} (or "
                f"{self.num_classes}, unknown): got {unknown[:8]} in {where}."
            )
        check_sides(labels.shape, self.f, where)
        return labels

    def image_size(self, batch: Mapping[str, Any]) -> tuple[int, int]:
        return batch["label_map"].shape[1:3]
