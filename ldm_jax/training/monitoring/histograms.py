# SPDX-License-Identifier: Apache-2.0
"""Computes histograms of parameters on the devices that store them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from ldm_jax.parallel.sharding import path_name, replicated
from ldm_jax.types import PyTree

NUM_BINS = 64


class Histogram(NamedTuple):
    """Counts [NUM_BINS] of values between edges [NUM_BINS + 1], and their moments."""

    counts: Any
    edges: Any
    total: Any
    sum_of_squares: Any


def histograms(tree: PyTree, mesh: Mesh) -> dict[str, Histogram]:
    """Counts the values of every array of a tree, by path.

    Args:
      tree: global arrays on `mesh`.
      mesh: of the arrays; every process gets the counts.

    Returns:
      path -> Histogram of NumPy values; arrays are never gathered.
    """
    # One program per shape: a network has hundreds of arrays and tens of shapes.
    count = jax.jit(_histogram, out_shardings=replicated(mesh))
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    # One at a time: programs of many processes must not overtake each other.
    return {path_name(path): jax.device_get(count(x)) for path, x in leaves}


def _histogram(x) -> Histogram:
    flat = x.astype(jnp.float32).ravel()
    counts, edges = jnp.histogram(flat, NUM_BINS)
    return Histogram(counts, edges, flat.sum(), (flat**2).sum())
