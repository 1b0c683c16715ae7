# SPDX-License-Identifier: Apache-2.0
"""The state that a training step updates, as one pytree, and its initialization."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.core import eval_jaxpr
from jax.extend.core import ClosedJaxpr
from jax.interpreters import partial_eval
from jax.sharding import Mesh, NamedSharding

from ldm_jax.parallel import sharding
from ldm_jax.parallel.host_memory import on_device, on_host
from ldm_jax.training.optimizer import Optimizer
from ldm_jax.training.options import LoopOptions
from ldm_jax.types import Array, PyTree, Task


@flax.struct.dataclass
class TrainState:
    """The arrays of a training run that a checkpoint stores.

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

    @property
    def mesh(self) -> Mesh:
        """The devices that the state is spread over, or replicated on."""
        return self.step.sharding.mesh  # pyright: ignore[reportAttributeAccessIssue]

    def averaged_params(self) -> PyTree:
        """Returns `params` with the averaged entries in place of the raw ones."""
        return {**self.params, **on_device(self.ema)}


def make_state(
    task: Task,
    optimizer: Optimizer,
    batch_shapes: Mapping[str, Any],
    mesh: Mesh,
    options: LoopOptions,
    replace_params: Callable[[PyTree], PyTree] | None = None,
) -> tuple[TrainState, Callable[[Array], TrainState]]:
    """Returns the shapes of a state, with shardings, and the function that makes it.

    Args:
      task: what is learned.
      optimizer: from `make_optimizer`.
      batch_shapes: field name -> jax.ShapeDtypeStruct of a batch.
      mesh: from `make_mesh`.
      options: `ema_of`, the entries of `params` that are averaged; `min_shard_mib`, see
        `with_shardings`; `ema_on_host`, which stores the average in the host's memory
        and copies it to the device in each step: slower, and 4 bytes per averaged
        parameter less on the devices.
      replace_params: params as drawn -> params to start with, see `initial`.

    Returns:
      (TrainState of jax.ShapeDtypeStruct, key -> TrainState at step 0).

    Raises:
      ValueError: `ema_of` names no network of the task.
    """
    whole = sharding.replicated(mesh)

    def finish(params, collections):
        # Copied: jit would return one buffer for both, and a step donates each.
        ema = {name: jax.tree.map(_copied, params[name]) for name in options.ema_of}
        step = jnp.zeros((), jnp.int32)
        return TrainState(step, params, optimizer.init(params), collections, ema)

    program, drawn = task.trace_init(batch_shapes)
    structure = jax.tree.structure(drawn)
    unknown = sorted(set(options.ema_of) - set(drawn[0]))
    if unknown:
        raise ValueError(
            f"ema_of must name networks of this task: got {unknown}; it has "
            f"{sorted(drawn[0])}."
        )
    shapes = jax.eval_shape(finish, *drawn)
    shapes = sharding.with_shardings(shapes, mesh, options.min_shard_mib)
    placed = jax.tree.map(lambda x: x.sharding, shapes)
    if options.ema_on_host:
        shapes = shapes.replace(ema=on_host(shapes.ema))

    def make(key: Array) -> TrainState:
        leaves = _run_needed(program, jax.device_put(key, whole))
        params, collections = jax.tree.unflatten(structure, leaves)
        if replace_params is not None:
            params = replace_params(params)
        everywhere = jax.tree.map(lambda x: _put(x, whole), (params, collections))
        state = jax.jit(finish, out_shardings=placed)(*everywhere)
        return state.replace(ema=on_host(state.ema)) if options.ema_on_host else state

    return shapes, make


def _put(x, where: NamedSharding) -> Array:
    """Places an array with a sharding; every process must have all of a host array."""
    if isinstance(x, jax.Array):
        return jax.device_put(x, where)
    return jax.make_array_from_callback(x.shape, where, lambda index: x[index])


def _copied(x: Array) -> Array:
    return jnp.array(x, copy=True)


def _run_needed(program: ClosedJaxpr, key: Array) -> list[Array]:
    """Runs op by op only what the result depends on, without the forward pass.

    As one program, hundreds of small random draws take a CPU longer to compile than
    the training step does (6M parameters: 55 s of CPU time; like this, 20 s), since
    here all parameters of one shape share their programs.
    """
    jaxpr, _ = partial_eval.dce_jaxpr(
        program.jaxpr, [True] * len(program.jaxpr.outvars), instantiate=True
    )
    return eval_jaxpr(jaxpr, program.consts, key)
