# SPDX-License-Identifier: Apache-2.0
"""Statistics and metadata of a set of latents: scale with its error, and origin."""

import dataclasses
import math
from typing import Any

import numpy as np

from ldm_jax.files.paths import PathLike

# The posterior's log-variance is clipped to this before use, as the bottleneck does.
LOG_VARIANCE_RANGE = (-30.0, 20.0)


@dataclasses.dataclass(frozen=True)
class LatentStats:
    """Statistics and metadata of a set of latents.

    Attributes:
      count: records.
      mean: of z over all records, positions and channels.
      std: of z, a draw from the posterior: sqrt(Var(mean) + E[variance]).
      scale: 1 / std; `scale * z` has unit variance.
      scale_error: standard error of `scale`, records taken as independent.
      f: image height / latent height.
      latent_shape: (h, w, c).
      autoencoder: fingerprint of the first stage's parameters.
      images: fingerprint of the image set.
      transform: description of what was done to the images.
      dropped: damaged records that were left out.
      num_classes: of the labels; None without labels.
      class_names: of the labels; () where they have none.

    Source: Rombach et al. 2022, App. G: latents are rescaled by their component-wise
    standard deviation, there of the first batch, here of all.
    """

    count: int
    mean: float
    std: float
    scale: float
    scale_error: float
    f: int
    latent_shape: tuple[int, int, int]
    autoencoder: str
    images: str
    transform: dict[str, Any]
    dropped: int = 0
    num_classes: int | None = None
    class_names: tuple[str, ...] = ()

    def check(self, autoencoder: str, where: PathLike = "the latents") -> None:
        """Refuses the latents of another first stage.

        Args:
          autoencoder: fingerprint of the first stage that shall decode them.
          where: their directory, for the error.

        Raises:
          ValueError: the fingerprints differ.
        """
        if autoencoder != self.autoencoder:
            raise ValueError(
                f"{where} were written by autoencoder {self.autoencoder} "
                f"(f={self.f}), the one given is {autoencoder}; write latents with "
                f"this one (ldm-jax latents), or give the directory of its latents."
            )


class LatentSums:
    """Sums over records, for the mean and standard deviation of z.

    Of each record: a, the mean of z over its elements, and b, the mean of z^2 (square
    of the posterior mean plus its variance). Sums of parts of a set may be added.
    """

    def __init__(self, sums: tuple[float, ...] | list[float] = (0.0,) * 6):
        self.sums = np.array(sums, np.float64)  # n, a, b, a a, b b, a b

    def add(self, moments: np.ndarray, latent_channels: int) -> None:
        """Adds records.

        Args:
          moments: [N, h, w, 2c], or [N, h, w, c] of a latent without a variance.
          latent_channels: c.
        """
        values = moments.astype(np.float64)
        mean, log_variance = np.split(values, [latent_channels], axis=-1)
        square = (mean**2).mean((1, 2, 3))
        if log_variance.size:
            square = square + np.exp(log_variance.clip(*LOG_VARIANCE_RANGE)).mean(
                (1, 2, 3)
            )
        a, b = mean.mean((1, 2, 3)), square
        self.sums += [len(a), a.sum(), b.sum(), a @ a, b @ b, a @ b]

    def result(self) -> dict[str, Any]:
        """Returns count, mean, std, scale and scale_error.

        The variance is B - A^2 with A, B the means of a, b. By the delta method a
        record moves it by (b - B) - 2 A (a - A); the standard error of the scale
        follows from the spread of that over records.

        Raises:
          ValueError: no records, or latents without variance.
        """
        n, *totals = self.sums
        if n < 1:
            raise ValueError("no latents were written: every record was dropped.")
        mean_a, mean_b, aa, bb, ab = (float(total / n) for total in totals)
        variance = mean_b - mean_a**2
        if not variance > 0:
            raise ValueError(
                f"the latents have no spread (variance {variance}): the autoencoder "
                f"maps every image to the same latent. Train it further."
            )
        spread = (
            (bb - mean_b**2)
            - 4 * mean_a * (ab - mean_a * mean_b)
            + 4 * mean_a**2 * (aa - mean_a**2)
        )
        std = math.sqrt(variance)
        return {
            "count": int(n),
            "mean": mean_a,
            "std": std,
            "scale": 1 / std,
            "scale_error": math.sqrt(max(spread, 0.0) / n) / (2 * std**3),
        }
