# SPDX-License-Identifier: Apache-2.0
"""Computes the kernel distance (KID), which is unbiased for any number of images."""

import numpy as np
from jaxtyping import Num

# The seed of torch-fidelity, so that the same subsets of features are drawn.
SUBSET_SEED = 2020


def kernel_distance(
    first: Num[np.ndarray, "N D"],
    second: Num[np.ndarray, "M D"],
    num_subsets: int = 100,
    subset_size: int = 1000,
) -> tuple[float, float]:
    """Estimates the squared maximum mean discrepancy of two sets of features.

        k(x, y) = (x . y / D + 1)^3

    Args:
      first, second: features.
      num_subsets: number of subsets of each set, over which the estimate is averaged.
      subset_size: rows of a subset; at most N and at most M.

    Returns:
      Mean and standard deviation over the subsets; for equal distributions the mean is
      about 0 and can be slightly negative.

    Raises:
      ValueError: a set is smaller than a subset.

    Source: Binkowski et al. 2018, Eq. 4 and Sec. 4.
    """
    smallest = min(len(first), len(second))
    if smallest < max(subset_size, 2):
        raise ValueError(
            f"subsets of {subset_size} images need as many in both sets: got "
            f"{len(first)} and {len(second)}; give more images or a smaller subset."
        )
    rng = np.random.RandomState(SUBSET_SEED)
    values = []
    for _ in range(num_subsets):
        rows = [
            np.asarray(x[rng.choice(len(x), subset_size, replace=False)], np.float64)
            for x in (first, second)
        ]
        values.append(_discrepancy(*rows))
    return float(np.mean(values)), float(np.std(values))


def _discrepancy(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the unbiased estimate of MMD^2 for two sets of equal size."""
    size = len(x)
    within = sum(_kernel(a, a).sum() - _diagonal(a).sum() for a in (x, y))
    return within / (size * (size - 1)) - 2 * _kernel(x, y).mean()


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _cube(x @ y.T / x.shape[1] + 1)


def _diagonal(x: np.ndarray) -> np.ndarray:
    return _cube((x * x).sum(axis=1) / x.shape[1] + 1)


def _cube(x: np.ndarray) -> np.ndarray:
    return x * x * x  # ** 3 goes through pow, 20 times slower
