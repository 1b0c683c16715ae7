# SPDX-License-Identifier: Apache-2.0
"""What a training step changes, as one pytree, and how it is made from a task."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from ldm_jax.types import Array, PyTree, Task


@flax.struct.dataclass
class TrainState:
    """Everything a checkpoint holds; arrays only.

    Attributes:
      step: [] int32, steps done.
      params: one entry per network, e.g. {"unet": ..., "conditioner": ...}.
      opt_state: the optimizer's state.
      collections: what a step changes without a gradient ({} or batch statistics).
      ema: exponential moving average of some entries of `params`; {} for none.
    """

    step: Array
    params: PyTree
    opt_state: PyTree
    collections: PyTree
    ema: PyTree

    def averaged_params(self) -> PyTree:
        """Returns `params` with the averaged entries in place of the raw ones."""
        return {**self.params, **self.ema}


def make_init(
    task: Task,
    optimizer: optax.GradientTransformation,
    batch_shapes: Mapping[str, Any],
    ema_of: Sequence[str] = (),
) -> Callable[[Array], TrainState]:
    """Makes the function key -> TrainState at step 0.

    Args:
      task: what is learned.
      optimizer: an optax transformation.
      batch_shapes: field name -> jax.ShapeDtypeStruct of a batch.
      ema_of: entries of `params` that are averaged, e.g. ("unet",).

    Returns:
      A function fit for `jax.eval_shape` and `jax.jit`; it raises ValueError when
      `ema_of` names no entry of the task's parameters.
    """

    def init(key: Array) -> TrainState:
        params, collections = task.init(key, batch_shapes)
        unknown = sorted(set(ema_of) - set(params))
        if unknown:
            raise ValueError(
                f"ema_of must name networks of this task: got {unknown}; "
                f"it has {sorted(params)}."
            )
        # Copied: jit would return one buffer for both, and a step donates each.
        ema = {
            name: jax.tree.map(lambda x: jnp.array(x, copy=True), params[name])
            for name in ema_of
        }
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=optimizer.init(params),
            collections=collections,
            ema=ema,
        )

    return init
