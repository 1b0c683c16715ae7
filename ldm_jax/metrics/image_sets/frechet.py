# SPDX-License-Identifier: Apache-2.0
"""Computes the Frechet distance of two sets from their means and covariances.

The distance is called FID for the pool features of the 2015 InceptionV3, sFID for its
spatial features, and FD with the network's name otherwise.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Num

from ldm_jax.types import Array


class Gaussian(NamedTuple):
    """Mean and covariance of the features of a set.

    Attributes:
      mean: mean of the features.
      covariance: covariance of the features, with N - 1 in the denominator.
      count: N; 0 if a file does not contain it.
    """

    mean: Float64[np.ndarray, " D"]
    covariance: Float64[np.ndarray, "D D"]
    count: int = 0


class FeatureMoments:
    """Accumulates the mean and covariance of rows in float64, with O(D^2) memory.

    Batches are centered before they are combined, so that a large mean costs no digits,
    whatever the number of rows.

    Source: Chan, Golub & LeVeque 1983, Eq. 1.5.
    """

    def __init__(self, width: int):
        self.width, self.count = width, 0
        self._mean = np.zeros(width)
        self._scatter = np.zeros((width, width))

    def update(self, rows: Num[Array, "B D"]) -> None:
        """Adds rows.

        Raises:
          ValueError: a row contains NaN or infinity.
        """
        rows = np.asarray(rows, np.float64)
        if not np.isfinite(rows).all():
            raise ValueError(
                "features must be finite: got NaN or infinity; some images contain it, "
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
        """Returns the mean and covariance of all rows so far.

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

    The last trace is computed as the sum of the singular values of F_1^T F_2, where
    F F^T = C. The result is real, and accurate for singular covariances too. The root
    of C_1 C_2, which is not symmetric, would lose half of the digits there. Therefore
    no epsilon is added to the diagonal.

    Returns:
      The distance; at least 0, up to rounding.

    Raises:
      ValueError: the two have different numbers of features.

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
    """Returns F [D, r] with F F^T = covariance; r is the rank of the covariance.

    Pivoted Cholesky takes D r^2 operations, a tenth or less of an eigendecomposition's.

    Source: Higham 2002, Sec. 10.3.
    """
    # Imported here, because most commands need no distance.
    from scipy.linalg import get_lapack_funcs

    covariance = np.asarray(covariance, np.float64)
    (pstrf,) = get_lapack_funcs(("pstrf",), (covariance,))
    # It stops when all remaining pivots are rounding errors relative to the largest:
    # their square roots would not be small.
    lower, pivots, rank, _ = pstrf((covariance + covariance.T) / 2, lower=1)
    factor = np.empty((len(covariance), rank))
    factor[pivots - 1] = np.tril(lower)[:, :rank]
    return factor
