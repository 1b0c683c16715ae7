# SPDX-License-Identifier: Apache-2.0
"""Opens the images that guide samples, and LPIPS weights if they are needed."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from ldm_jax.conditions.user_inputs import to_image
from ldm_jax.data.images.finished_images import open_set
from ldm_jax.interop.feature_networks.lpips_file import LpipsFile
from ldm_jax.tasks.guides import ImageGuide
from ldm_jax.types import PyTree


@dataclasses.dataclass(frozen=True)
class GuidingImages:
    """The images that guide samples, and the settings of guidance.

    Attributes:
      path: of an image, or of a folder or .npz of images of one size.
      how: distance, scale and transform.
      lpips: file of LPIPS weights, see `ldm-jax weights lpips`; "" unless LPIPS is
        the distance.
    """

    path: str
    how: ImageGuide = ImageGuide()
    lpips: str = ""

    def __post_init__(self):
        if bool(self.lpips) != (self.how.distance == "lpips"):
            raise ValueError(
                'guiding by "lpips" reads a file of its weights, and nothing else '
                f'does: got distance "{self.how.distance}" and '
                f"{self.lpips or 'no file'}; give --guide-lpips FILE (ldm-jax weights "
                "lpips --download vgg --out FILE) with --guide-by lpips."
            )

    def open(self, size: tuple[int, int]) -> tuple[np.ndarray, PyTree]:
        """Reads the images and the weights.

        Args:
          size: (height, width) of the samples.

        Returns:
          images [N, h, w, 3] in [-1, 1], and parameters of LPIPS or {}.

        Raises:
          ValueError: there are no images, or not of the size of transformed samples.
        """
        path = pathlib.Path(self.path).expanduser()
        if path.is_dir() or path.suffix == ".npz":
            parts = open_set(path).batches(64)
            images = [to_image(one) for part in parts for one in part]
        else:
            images = [to_image(path)]
        self.how.check_size(images[0].shape[:2], size)
        by_lpips = self.how.distance == "lpips"
        params = LpipsFile(self.lpips).load(self.how.trunk) if by_lpips else {}
        return np.stack(images), params

    def to_dict(self) -> dict[str, Any]:
        """Returns all settings by name, as JSON."""
        how = dataclasses.asdict(self.how)
        how["interval"] = list(self.how.interval) if self.how.interval else None
        return {"images": str(self.path), "lpips": self.lpips, **how}
