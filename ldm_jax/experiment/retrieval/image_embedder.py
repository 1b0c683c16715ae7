# SPDX-License-Identifier: Apache-2.0
"""Opens the network that embeds images for retrieval: CLIP, or a feature network."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ldm_jax.data.transforms.pixels import resize
from ldm_jax.experiment.retrieval.clip_folder import ClipFolder
from ldm_jax.metrics.image_sets.measure import open_feature_network

# Side of the images that a feature network gets; it resizes them to its own.
SIDE = 224


class ImageEmbedder(Protocol):
    """Embeds images as vectors.

    Attributes:
      width: numbers of an embedding.
      fingerprint: names the network and its parameters.
    """

    width: int
    fingerprint: str

    def embed_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Embeds images uint8 [H, W, 3], as queries: [B, width]."""
        ...

    def embed_patches(self, patches: Sequence[np.ndarray]) -> np.ndarray:
        """Embeds square patches uint8 [S, S, 3], as rows of databases: [B, width]."""
        ...


class FeatureEmbedder:
    """Embeds images by the pooled features of a network of the metrics.

    The vectors do not have unit length, and texts cannot be embedded.

    Args:
      kind, weights: of `open_feature_network`.
    """

    def __init__(self, kind: str, weights: str | None = None):
        self._network = open_feature_network(kind, weights)
        self.width = self._network.widths["pool"]
        self.fingerprint = f"{kind}-{self._network.metadata['sha256'][:16]}"

    def embed_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Embeds the middle squares of images uint8 [H, W, 3]: [B, width]."""
        return self.embed_patches([middle_square(image)[0] for image in images])

    def embed_patches(self, patches: Sequence[np.ndarray]) -> np.ndarray:
        """Embeds square patches uint8 [S, S, 3]: [B, width]."""
        size = (SIDE, SIDE)
        batch = np.stack([resize(patch, size, "bicubic") for patch in patches])
        return np.asarray(self._network.run(batch)["pool"])


@dataclasses.dataclass(frozen=True)
class EmbedderSource:
    """The choice of a network that embeds images.

    Attributes:
      clip: folder of a CLIP model.
      feature_network, feature_weights: of `open_feature_network`, instead of `clip`.

    Raises:
      ValueError: both are given.
    """

    clip: str = ""
    feature_network: str = ""
    feature_weights: str | None = None

    def __post_init__(self):
        if self.clip and self.feature_network:
            raise ValueError(
                f"one network embeds images: got the CLIP model {self.clip} and the "
                f"feature network {self.feature_network}; give one of them."
            )

    @property
    def is_given(self) -> bool:
        """Returns whether a network is chosen."""
        return bool(self.clip or self.feature_network)

    def open(self) -> ImageEmbedder:
        """Opens the network.

        Raises:
          ValueError: none is given, or its files are missing.
        """
        if self.clip:
            return ClipFolder(self.clip)
        if self.feature_network:
            return FeatureEmbedder(self.feature_network, self.feature_weights)
        raise ValueError(
            "images are embedded by a network: got none; give --clip-model FOLDER, or "
            "--feature-network mobilenet."
        )


def middle_square(image: np.ndarray) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """Cuts the middle square of an image [H, W, 3].

    Returns:
      (the square [S, S, 3], its corners (x0, y0, x1, y1) in the image).
    """
    side = min(image.shape[:2])
    top, left = ((x - side) // 2 for x in image.shape[:2])
    square = image[top : top + side, left : left + side]
    return square, (left, top, left + side, top + side)
