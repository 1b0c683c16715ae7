# SPDX-License-Identifier: Apache-2.0
"""Frechet distance of two sets in a feature space, from means and covariances.

Called FID when the features are the pool of the 2015 InceptionV3, sFID when they are
its spatial ones, and by the network's name otherwise.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Num

from ldm_jax.types import Array


class Gaussian(NamedTuple):
    """Statistics of a set that a Frechet distance compares.

    Attributes:
      mean: of the features.
      covariance: of the features, with N - 1 in the denominator.
      count: N; 0 where a file does not give it.
    """

    mean: Float64[np.ndarray, " D"]
    covariance: Float64[np.ndarray, "D D"]
    count: int = 0


class FeatureMoments:
    """Accumulates mean and covariance of batches of rows; float64, memory O(D^2).

    Batches are centered before they are joined, so that no digits are lost to a large
    mean however many rows there are.

    Source: Chan, Golub & LeVeque 1983, Eq. 1.5.
    """

    def __init__(self, width: int):
        self.width, self.count = width, 0
        self._mean = np.zeros(width)
        self._scatter = np.zeros((width, width))

    def update(self, rows: Num[Array, "B D"]) -> None:
        """Adds rows.

        Raises:
          ValueError: a row holds NaN or infinity.
        """
        rows = np.asarray(rows, np.float64)
        if not np.isfinite(rows).all():
            raise ValueError(
                "features must be finite: got NaN or infinity; the images hold some, "
                "or the network's weights are damaged."
            )
        mean = rows.mean(axis=0)
        centered = rows - mean
        self._join(len(rows), mean, centered.T @ centered)

    def merge(self, other: "FeatureMoments") -> None:
        """Adds the rows of another accumulator."""
        self._join(other.count, other._mean, other._scatter)

    def _join(self, count, mean, scatter) -> None:
        if not count:
            return
        total = self.count + count
        step = mean - self._mean
        self._scatter += scatter
        self._scatter += np.outer(step, step * (self.count * count / total))
        self._mean = self._mean + step * (count / total)
        self.count = total

    def gaussian(self) -> Gaussian:
        """Returns mean and covariance of all rows so far.

        Raises:
          ValueError: there are fewer than two rows.
        """
        if self.count < 2:
            raise ValueError(
                f"a covariance needs at least 2 images: got {self.count}; give more."
            )
        return Gaussian(self._mean, self._scatter / (self.count - 1), self.count)


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """Computes the Frechet distance of two Gaussians.

        |m_1 - m_2|^2 + tr(C_1) + tr(C_2) - 2 tr (C_1 C_2)^(1/2)

    The last trace is the sum of the singular values of C_1^(1/2) C_2^(1/2), with roots
    of symmetric matrices: real and accurate also where covariances are singular, where
    the root of their product, a nonsymmetric matrix, loses half of the digits. So no
    epsilon is added to a diagonal.

    Returns:
      The distance; at least 0 but for rounding.

    Raises:
      ValueError: the two are of different feature spaces.

    Source: Dowson & Landau 1982; Heusel et al. 2017, Eq. 6.
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(
            f"two sets of statistics must be of the same features: got "
            f"{first.mean.shape[0]} and {second.mean.shape[0]} numbers; make both with "
            "the same network."
        )
    overlap = _factor(first.covariance).T @ _factor(second.covariance)
    difference = first.mean - second.mean
    trace = np.trace(first.covariance) + np.trace(second.covariance)
    overlap = np.linalg.svd(overlap, compute_uv=False).sum() if overlap.size else 0.0
    return float(difference @ difference + trace - 2 * overlap)


def _factor(covariance: np.ndarray) -> np.ndarray:
    """Returns F [D, r] with F F^T = the covariance, of the directions that vary."""
    covariance = np.asarray(covariance, np.float64)
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    # Eigenvalues so small relative to the largest are rounding errors, but their roots
    # are not small.
    kept = values > max(values[-1], 0) * len(values) * np.finfo(np.float64).eps
    return vectors[:, kept] * np.sqrt(values[kept])
