# SPDX-License-Identifier: Apache-2.0
"""One training step: its changes, and none if it is not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldm_jax.parallel.sharding import batch_sharding, make_mesh
from ldm_jax.training.optimizer import ema_decay, make_optimizer
from ldm_jax.training.state import make_state
from ldm_jax.training.step import make_train_step
from tests.training.toy import FIELDS, ToyBatches, make_task, options

KEY = jax.random.key(0)


def start(task, optimizer=None):
    optimizer = optimizer or make_optimizer()
    averages = options(ema_of=("unet",))
    _, make = make_state(task, optimizer, FIELDS, make_mesh(), averages)
    return make(KEY), ToyBatches(batch_sharding(make_mesh()))


def test_a_step_is_gradient_update_average():
    """Oracle: the same written out with jax.grad and optax."""
    task, optimizer = make_task(), make_optimizer(learning_rate=0.01)
    state, batches = start(task, optimizer)
    batch = batches(0)
    new, metrics = make_train_step(task.loss, optimizer, options(max_ema_decay=0.999))(
        state, task.frozen, batch, KEY
    )

    inputs = {**state.collections, "frozen": task.frozen}
    key = jax.random.fold_in(KEY, 0)
    grads, (_, collections) = jax.grad(task.loss, has_aux=True)(
        state.params, inputs, batch, key, 0
    )
    updates, _ = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    d = ema_decay(1, 0.999)
    ema = jax.tree.map(
        lambda s, p: d * s + (1 - d) * p, state.ema["unet"], params["unet"]
    )
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)  # noqa: E731
    jax.tree.map(close, new.params, params)
    jax.tree.map(close, new.ema["unet"], ema)
    jax.tree.map(close, new.collections, collections)
    close(metrics["grad_norm/unet"], optax.tree.norm(grads["unet"]))
    assert int(new.step) == 1 and float(metrics["skipped"]) == 0


def test_a_step_that_is_not_finite_changes_nothing_but_the_count():
    task = make_task(nan_steps=(0,))
    state, batches = start(task)
    train_step = make_train_step(task.loss, make_optimizer(), options())
    new, metrics = train_step(state, task.frozen, batches(0), KEY)
    assert float(metrics["skipped"]) == 1 and int(new.step) == 1
    jax.tree.map(np.testing.assert_array_equal, new.replace(step=state.step), state)
    after, metrics = train_step(new, task.frozen, batches(1), KEY)
    assert float(metrics["skipped"]) == 0
    assert not np.array_equal(after.params["conditioner"]["bias"], jnp.zeros(8))


def test_a_spike_is_left_out_and_a_gradient_below_the_bound_is_not():
    """Identity: with a bound above its norm a step is what it is without one."""
    task = make_task()
    state, batches = start(task)
    args = (state, task.frozen, batches(0), KEY)
    free, metrics = make_train_step(task.loss, make_optimizer(), options())(*args)
    norm = max(float(metrics[f"grad_norm/{n}"]) for n in ("unet", "conditioner"))
    for bound, is_skipped in ((1.01 * norm, False), (0.99 * norm, True)):
        bounded = options(skip_norm_above=bound)
        step = make_train_step(task.loss, make_optimizer(), bounded)
        new, metrics = step(*args)
        assert bool(metrics["skipped"]) == is_skipped
        want = state.replace(step=new.step) if is_skipped else free
        jax.tree.map(np.testing.assert_array_equal, new, want)


def test_accumulated_gradients_are_the_mean_over_the_parts():
    """Oracle: without noise, the gradient of the mean is the mean of gradients."""

    def loss(params, collections, batch, key, step):
        y = batch["x"] @ params["unet"]["mlp"]["in"]["kernel"]
        return jnp.mean(y**2), ({"size": batch["x"].shape[0] * 1.0}, collections_out)

    task = make_task()
    state, batches = start(task)
    collections_out = state.collections
    args = (state, task.frozen, batches(0), KEY)
    whole, metrics = make_train_step(loss, make_optimizer(), options())(*args)
    in_parts = make_train_step(loss, make_optimizer(), options(accumulate=4))
    parts, part_metrics = in_parts(*args)
    for name in ("loss", "grad_norm/unet"):
        np.testing.assert_allclose(metrics[name], part_metrics[name], rtol=1e-5)
    assert float(part_metrics["size"]) == 4
    # Adam divides by the gradient's size: rounding of tiny gradients is enlarged.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        whole.params,
        parts.params,
    )


def test_accumulation_must_divide_the_batch():
    task = make_task()
    state, batches = start(task)
    train_step = make_train_step(task.loss, make_optimizer(), options(accumulate=3))
    with pytest.raises(ValueError, match="got 3 for a batch of 16"):
        train_step(state, task.frozen, batches(0), KEY)
