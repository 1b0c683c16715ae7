# SPDX-License-Identifier: Apache-2.0
"""The training step: gradient, update, average; skipped if it is not finite."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from ldm_jax.parallel.host_memory import DEVICE_SPACE, HOST_SPACE
from ldm_jax.training.optimizer import Optimizer, ema_decay, update_ema
from ldm_jax.training.options import LoopOptions
from ldm_jax.training.state import TrainState
from ldm_jax.types import Array, Batch, PyTree

TrainStep = Callable[
    [TrainState, PyTree, Batch, Array], tuple[TrainState, dict[str, jax.Array]]
]


def make_train_step(
    loss: Callable,
    optimizer: Optimizer,
    options: LoopOptions,
) -> TrainStep:
    """Makes the pure function (state, frozen, batch, key) -> (state, metrics).

    All networks of a task are updated together, from one gradient. A step whose loss
    or gradient is not finite, or is a spike, leaves params, optimizer, collections and
    average as they were; `step` still advances, so that the next batch is another one.

    Args:
      loss: `Task.loss`.
      optimizer: from `make_optimizer`.
      options: `max_ema_decay`; `accumulate`, the parts of a batch whose gradients are
        averaged, which divides the memory of activations; `skip_norm_above`, which
        unlike clipping (optimizer.clip_norm) leaves the whole step out; `ema_on_host`.

    Returns:
      The step. `frozen` is `Task.frozen`; `key` is the run's, the same for every step.
      Metrics are float32 scalars: the task's own, "loss", "grad_norm/<network>",
      "learning_rate", and "skipped", 1 where the step was left out.
    """

    def train_step(state, frozen, batch, key):
        grad = jax.value_and_grad(loss, has_aux=True)
        inputs = (state.params, state.collections, frozen, batch)
        value, metrics, collections, grads = _gradient(
            grad,
            *inputs,
            jax.random.fold_in(key, state.step),
            state.step,
            options.accumulate,
        )
        norms = {name: optax.tree.norm(g) for name, g in grads.items()}
        is_good = jnp.isfinite(value) & jnp.isfinite(sum(norms.values()))
        if options.skip_norm_above is not None:
            largest = jnp.max(jnp.stack(list(norms.values())))
            is_good &= largest <= options.skip_norm_above

        # Chosen array by array, in the same pass as the update. A branch of a
        # conditional would read gradients that XLA has copied for it (1.5 % of a step
        # in the compiler's schedule for v5e).
        def chosen(new, old):
            return jax.tree.map(lambda a, b: jnp.where(is_good, a, b), new, old)

        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = chosen(optax.apply_updates(state.params, updates), state.params)
        average = state.ema
        if options.ema_on_host:
            average = jax.device_put(average, DEVICE_SPACE)
        decay = ema_decay(state.step + 1, options.max_ema_decay)
        average = chosen(update_ema(average, params, decay), average)
        new = TrainState(
            state.step + 1,
            params,
            chosen(opt_state, state.opt_state),
            chosen(collections, state.collections),
            jax.device_put(average, HOST_SPACE) if options.ema_on_host else average,
        )
        metrics = {
            **metrics,
            "loss": value,
            **{f"grad_norm/{name}": norm for name, norm in norms.items()},
            **optimizer.learning_rates(state.opt_state),
            "skipped": 1.0 - is_good,
        }
        metrics = {n: jnp.asarray(m, jnp.float32) for n, m in metrics.items()}
        return new, metrics

    return train_step


def _gradient(grad, params, collections, frozen, batch, key, step, accumulate):
    """Returns (loss, metrics, collections, gradients), each a mean over the parts."""

    def one(collections, part, key):
        inputs = {**collections, "frozen": frozen}
        (value, (metrics, new)), grads = grad(params, inputs, part, key, step)
        return value, metrics, new, grads

    if accumulate == 1:
        return one(collections, batch, key)
    parts = jax.tree.map(lambda x: _cut(x, accumulate), batch)

    def body(carry, inputs):
        part, i = inputs
        collections, total = carry
        value, metrics, collections, grads = one(
            collections, part, jax.random.fold_in(key, i)
        )
        total = jax.tree.map(jnp.add, total, (value, metrics, grads))
        return (collections, total), None

    first = jax.tree.map(lambda x: x[0], parts)
    value, metrics, _, grads = jax.eval_shape(one, collections, first, key)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (value, metrics, grads))
    (collections, total), _ = jax.lax.scan(
        body, (collections, zeros), (parts, jnp.arange(accumulate))
    )
    value, metrics, grads = jax.tree.map(lambda x: x / accumulate, total)
    return value, metrics, collections, grads


def _cut(x: Array, parts: int) -> Array:
    """Splits [B, ...] into [parts, B / parts, ...], each part over all devices.

    Part i holds rows i, i + parts, ...: contiguous parts would each be on a few
    devices only and have to be sent to the others.
    """
    if x.shape[0] % parts:
        raise ValueError(
            f"accumulate must divide the batch: got {parts} for a batch of "
            f"{x.shape[0]}; change train.accumulate or batch_size."
        )
    return jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0)
