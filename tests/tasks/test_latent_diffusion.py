# SPDX-License-Identifier: Apache-2.0
"""The diffusion task against closed forms.

The UNet's last layer starts at zero, so a new model predicts 0 and its loss is the mean
square of the target, which is known.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldm_jax.tasks.latent_diffusion import Objective, latent_diffusion
from tests.tasks.test_model import tiny_model


def batch_of(size=64, seed=0):
    rng = np.random.default_rng(seed)
    mean = rng.standard_normal((size, 4, 4, 2))
    moments = np.concatenate([mean, np.full_like(mean, -30)], axis=-1)
    return {
        "moments": jnp.asarray(moments, jnp.float32),
        "label": jnp.asarray(rng.integers(0, 3, size), jnp.int32),
    }


def loss_of(task, params, batch, key=1):
    inputs = {"frozen": task.frozen}
    return task.loss(params, inputs, batch, jax.random.key(key), 0)


@pytest.mark.parametrize(
    ("prediction", "expected"),
    # eps ~ N(0, 1); z_0 ~ 2 N(0, 1); v = alpha eps - sigma z_0, so 1 + 3 E[sigma^2].
    [("eps", 1.0), ("x0", 4.0), ("v", None)],
)
def test_a_silent_network_loses_the_targets_mean_square(prediction, expected):
    model = tiny_model(prediction)
    if expected is None:
        expected = 1 + 3 * float(np.mean(1 - model.schedule.alphas_cumprod))
    task = latent_diffusion(model, Objective())
    batch = batch_of()
    params, collections = task.init(jax.random.key(0), batch)
    assert collections == {}
    _, (metrics, _) = loss_of(task, params, batch)
    # 64 * 32 values: a standard error of about 3%, more for v, whose t varies.
    np.testing.assert_allclose(metrics["loss_simple"], expected, rtol=0.15)


def test_params_have_one_entry_per_network():
    task = latent_diffusion(tiny_model(), Objective(learn_log_variance=True))
    shapes = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch_of().items()
    }
    params, _ = jax.eval_shape(task.init, jax.random.key(0), shapes)
    assert sorted(params) == ["conditioner", "log_variance", "unet"]
    assert params["conditioner"]["embedding"].shape == (4, 8)


def test_dropping_every_condition_makes_labels_irrelevant():
    model = tiny_model()
    batch = batch_of(8)
    other = {**batch, "label": (batch["label"] + 1) % 3}
    for probability, is_same in ((1.0, True), (0.0, False)):
        task = latent_diffusion(model, Objective(drop_probability=probability))
        params, _ = task.init(jax.random.key(0), batch)
        # A zero last layer hides the condition: give it something to say.
        params["unet"]["conv_out"]["kernel"] += 0.1
        params["unet"] = jax.tree.map(lambda p: p + 0.01, params["unet"])
        same = loss_of(task, params, batch)[0] == loss_of(task, params, other)[0]
        assert bool(same) == is_same


def test_dropping_needs_a_condition():
    model = tiny_model(kind="none")
    with pytest.raises(ValueError, match="drop_probability needs a condition"):
        latent_diffusion(model, Objective(drop_probability=0.1))


def test_a_few_steps_lower_the_loss():
    """Identity: the gradient points down (one batch, one draw of noise)."""
    task = latent_diffusion(tiny_model(), Objective(distance="l1"))
    batch = batch_of(16)
    params, _ = task.init(jax.random.key(0), batch)
    optimizer = optax.adam(1e-2)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        grad = jax.grad(lambda p: loss_of(task, p, batch)[0])(params)
        updates, state = optimizer.update(grad, state, params)
        return optax.apply_updates(params, updates), state

    before = loss_of(task, params, batch)[0]
    for _ in range(20):
        params, state = step(params, state)
    assert loss_of(task, params, batch)[0] < 0.8 * before
