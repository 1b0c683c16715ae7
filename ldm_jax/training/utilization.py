# SPDX-License-Identifier: Apache-2.0
"""Computes the share of the devices' peak FLOP/s that a training run uses (MFU)."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from ldm_jax.models.attention import attention
from ldm_jax.parallel.chips import chip_of
from ldm_jax.training.flops import count_flops
from ldm_jax.types import Task


def training_flops(task: Task, batch: Mapping[str, Any]) -> int:
    """Counts the operations of a task's gradient for one batch, all devices together.

    Attention is counted as the products it stands for, whichever kernel computes it.

    Args:
      task: what is learned.
      batch: field -> jax.ShapeDtypeStruct of a global batch.
    """
    key = jax.random.key(0)
    params, collections = task.shapes(batch)
    frozen = jax.eval_shape(lambda: task.frozen)

    def gradient(params, collections, frozen, batch, key):
        inputs = {**collections, "frozen": frozen}
        return jax.grad(task.loss, has_aux=True)(params, inputs, batch, key, 0)

    with attention.portable():
        return count_flops(gradient, params, collections, frozen, dict(batch), key)


def peak_share(flops: int, mesh: Mesh) -> Callable[[float], float] | None:
    """Makes the function from steps per second to the share of the devices' peak.

    Model FLOPs utilisation: the operations of the model alone, over bfloat16's peak.

    Args:
      flops: of a step, from `training_flops`.
      mesh: the devices.

    Returns:
      The function; None where the peak is not known (a CPU).
    """
    chip = chip_of(mesh.devices.flat[0])
    if chip is None:
        return None
    share = flops / (chip.flops * mesh.size)
    return lambda steps_per_second: steps_per_second * share
