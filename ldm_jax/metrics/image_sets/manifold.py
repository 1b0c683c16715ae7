# SPDX-License-Identifier: Apache-2.0
"""Computes precision and recall, density and coverage, from nearest neighbours.

Every image is the center of a ball whose radius is the distance to its k-th neighbour.
Distances are computed in blocks, which are divided among the devices, so that memory is
[block, N] and never [N, N].
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Num

from ldm_jax.types import Array

BLOCK = 512


def precision_recall(
    real: Num[Array, "N D"],
    fake: Num[Array, "M D"],
    k: int = 3,
    place: Callable = jnp.asarray,
) -> tuple[float, float]:
    """Computes precision and recall of generated images.

    Args:
      real, fake: features.
      k: number of neighbours of an image, without the image itself.
      place: places a block [BLOCK, D] of rows on the devices, e.g. sharded over them.

    Returns:
      Precision, the share of fakes inside the ball of at least one real image; recall,
      the share of real images inside the ball of at least one fake. Both in [0, 1].

    Raises:
      ValueError: a set has no more than k images.

    Source: Kynkaanniemi et al. 2019, Eq. 1-3; k = 3 and the features of FID as in
      Dhariwal & Nichol 2021, whose script the paper uses.
    """
    real, fake = _centered(real, fake)
    inside, _ = _balls(real, fake, k, place)
    reached, _ = _balls(fake, real, k, place)
    return float((inside > 0).mean()), float((reached > 0).mean())


def density_coverage(
    real: Num[Array, "N D"],
    fake: Num[Array, "M D"],
    k: int = 5,
    place: Callable = jnp.asarray,
) -> tuple[float, float]:
    """Computes density and coverage of generated images.

    Args and errors are those of `precision_recall`.

    Returns:
      Density, the mean number of real images' balls that contain a fake, divided by k
      (about 1 for equal distributions, without an upper bound); coverage, the share of
      real images whose ball contains a fake.

    Source: Naeem et al. 2020, Eq. 3 and 4.
    """
    real, fake = _centered(real, fake)
    inside, holds = _balls(real, fake, k, place)
    return float(inside.mean() / k), float(holds.mean())


def _centered(real, fake):
    """Subtracts the real mean from both sets, so that squares lose fewer digits."""
    real, fake = np.asarray(real, np.float32), np.asarray(fake, np.float32)
    mean = real.mean(axis=0, dtype=np.float64).astype(np.float32)
    return real - mean, fake - mean


def _balls(centers, points, k: int, place):
    """Counts the balls around each point, and marks the balls that contain a point."""
    if min(len(centers), len(points)) <= k:
        raise ValueError(
            f"neighbours up to the {k}th need more than {k} images in each set: got "
            f"{len(centers)} and {len(points)}; give more."
        )
    everything = jnp.asarray(centers)
    radii = np.concatenate(
        [
            np.asarray(_kth_square(place(rows), everything, k))[:valid]
            for rows, valid in _blocks(centers)
        ]
    )
    counts, holds = [], np.zeros(len(centers), bool)
    for rows, valid in _blocks(points):
        is_row = place(np.arange(len(rows)) < valid)
        count, held = _inside(place(rows), is_row, everything, jnp.asarray(radii))
        counts.append(np.asarray(count)[:valid])
        holds |= np.asarray(held)
    return np.concatenate(counts), holds


def _blocks(rows):
    """Yields blocks of BLOCK rows, zero-padded, with their numbers of valid rows."""
    for low in range(0, len(rows), BLOCK):
        part = rows[low : low + BLOCK]
        valid = len(part)
        missing = [(0, BLOCK - valid), *[(0, 0)] * (part.ndim - 1)]
        yield np.pad(part, missing), valid


def _squares(x: Array, y: Array) -> Array:
    """Computes squared distances [B, N] of [B, D] and [N, D]."""
    products = jnp.dot(x, y.T, precision=lax.Precision.HIGHEST)
    squares = jnp.sum(x * x, axis=1)[:, None] + jnp.sum(y * y, axis=1)[None]
    return jnp.maximum(squares - 2 * products, 0)


@functools.partial(jax.jit, static_argnames="k")
def _kth_square(x: Array, y: Array, k: int) -> Array:
    """Computes each row's squared distance to its k-th neighbour among y."""
    # The nearest row is the row itself, at distance 0.
    return -lax.top_k(-_squares(x, y), k + 1)[0][:, k]


@jax.jit
def _inside(x: Array, is_row: Array, centers: Array, squares: Array):
    inside = (_squares(x, centers) <= squares[None]) & is_row[:, None]
    return inside.sum(axis=1), inside.any(axis=0)
