# SPDX-License-Identifier: Apache-2.0
"""Finds the training images that are nearest to samples, in the features of LPIPS.

A shortlist is made by pooled features of the trunk's last layer and then sorted by
LPIPS. The paper (Fig. 32 to 34) names neither the layer nor the distance; both are a
choice of this package.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from ldm_jax.metrics.image_sets.measure import on_devices
from ldm_jax.models.features.lpips import LPIPS, pooled_features
from ldm_jax.types import Array, PyTree

SHORTLIST = 200
# Pairs that are compared at once.
BATCH = 64


class NearestImages(NamedTuple):
    """The nearest training images of each sample, the nearest first.

    Attributes:
      indices: [M, k] int, of training images.
      distances: [M, k] float32, LPIPS.
    """

    indices: np.ndarray
    distances: np.ndarray


class PerceptualSearch:
    """Searches training images by their features.

    Args:
      trunk: of LPIPS.
      params: of `LPIPS(trunk)`.
      read: numbers of training images -> uint8 [B, H, W, 3].
      count: number of training images.
    """

    def __init__(
        self,
        trunk: str,
        params: PyTree,
        read: Callable[[Sequence[int]], UInt8[np.ndarray, "B H W 3"]],
        count: int,
    ):
        self._read, self.count = read, count
        pool = jax.jit(lambda x: pooled_features(trunk, params, _to_unit(x)))
        network = LPIPS(trunk)
        compare = jax.jit(
            lambda x, y: network.apply({"params": params}, _to_unit(x), _to_unit(y))
        )
        self._pool = lambda image: on_devices(pool, image)
        self._compare = lambda image, other: on_devices(compare, image, other)
        rows = [range(i, min(i + BATCH, count)) for i in range(0, count, BATCH)]
        self._pooled = np.concatenate([self._pool(read(part)) for part in rows])

    def nearest(self, image: UInt8[np.ndarray, "M H W 3"], k: int) -> NearestImages:
        """Finds the k nearest training images of each image.

        Raises:
          ValueError: there are fewer training images, or k is above the shortlist.
        """
        shortlist = min(SHORTLIST, self.count)
        if not 1 <= k <= shortlist:
            raise ValueError(
                f"nearest images are at most {SHORTLIST} of {self.count} training "
                f"images: got {k}; ask for fewer."
            )
        rows = [self._nearest_of_one(one, k, shortlist) for one in image]
        return NearestImages(*(np.stack(part) for part in zip(*rows, strict=True)))

    def _nearest_of_one(
        self, image: np.ndarray, k: int, shortlist: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns (indices, distances) [k] for one image [H, W, 3]."""
        square = np.square(self._pooled - self._pool(image[None])).sum(1)
        rows = np.argsort(square, kind="stable")[:shortlist]
        distances = []
        for low in range(0, shortlist, BATCH):
            others = self._read(rows[low : low + BATCH].tolist())
            one = np.broadcast_to(image, others.shape)
            distances.append(self._compare(one, others))
        distance = np.concatenate(distances)
        order = np.argsort(distance, kind="stable")[:k]
        return rows[order], distance[order]


def _to_unit(image_u8: Array) -> Float[Array, "B H W 3"]:
    return image_u8.astype(jnp.float32) / 127.5 - 1
