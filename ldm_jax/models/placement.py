# SPDX-License-Identifier: Apache-2.0
"""Where the rows of a batch lie on the mesh of the step that is being traced."""

import math

import jax
from jax import lax
from jax.sharding import PartitionSpec

from ldm_jax.types import BATCH_AXES, Array


def rows_over(mesh, num_rows: int) -> tuple[str, ...] | None:
    """Returns the axes of a mesh that rows lie along; None where they do not divide."""
    axes = tuple(axis for axis in BATCH_AXES if axis in mesh.shape)
    return None if num_rows % math.prod(mesh.shape[a] for a in axes) else axes


def keep_rows(x: Array) -> Array:
    """Tells the compiler that the rows of [B, ...] stay on their devices.

    Else it splits products of few rows by channels, as their kernel lies, and sends
    activations back and forth: LDM-8 ImageNet, whose context is one token, over 16
    devices 117 times a step.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = rows_over(mesh, x.shape[0])
    if mesh.size == 1 or not axes or x.ndim < 2:
        return x
    others = [PartitionSpec.UNCONSTRAINED] * (x.ndim - 1)
    return lax.with_sharding_constraint(x, PartitionSpec(axes, *others))
