# SPDX-License-Identifier: Apache-2.0
"""The diffusion task against closed forms.

A network that always says 0 loses the mean square of the target, which is known. Such
simple networks replace the UNet where its result does not matter.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldm_jax.tasks.latent_diffusion import Objective, latent_diffusion
from tests.tasks.test_model import tiny_model


class Echo(nn.Module):
    """A denoiser that says `gain` times the mean of its context."""

    gain: float

    @nn.compact
    def __call__(self, z_t, t, cond, is_training=False):
        mean = cond.context.mean((1, 2)).reshape(-1, 1, 1, 1)
        return self.gain * jnp.broadcast_to(mean, z_t.shape)


def echo_task(gain, objective, **model):
    """(task, its params) with an Echo in the place of the UNet."""
    model = dataclasses.replace(tiny_model(**model), unet=Echo(gain))
    task = latent_diffusion(model, objective)
    table = jax.random.normal(jax.random.key(0), (4, 8))
    return model, task, {"unet": {}, "conditioner": {"embedding": table}}


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
    return jax.jit(task.loss)(params, inputs, batch, jax.random.key(key), 0)


@pytest.mark.parametrize(
    ("prediction", "expected"),
    # eps ~ N(0, 1); z_0 ~ 2 N(0, 1); v = alpha eps - sigma z_0, so 1 + 3 E[sigma^2].
    [("eps", 1.0), ("x0", 4.0), ("v", None)],
)
def test_a_silent_network_loses_the_targets_mean_square(prediction, expected):
    model, task, params = echo_task(0.0, Objective(), prediction=prediction)
    if expected is None:
        expected = 1 + 3 * float(np.mean(1 - model.schedule.alphas_cumprod))
    _, (metrics, collections) = loss_of(task, params, batch_of())
    assert collections == {}
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
    batch = batch_of(8)
    other = {**batch, "label": (batch["label"] + 1) % 3}
    for probability, is_same in ((1.0, True), (0.0, False)):
        _, task, params = echo_task(1.0, Objective(drop_probability=probability))
        same = loss_of(task, params, batch)[0] == loss_of(task, params, other)[0]
        assert bool(same) == is_same


def test_dropping_needs_a_condition():
    model = tiny_model(kind="none")
    with pytest.raises(ValueError, match="drop_probability needs a condition"):
        latent_diffusion(model, Objective(drop_probability=0.1))


def test_v_has_no_bound_to_be_weighted():
    model = dataclasses.replace(tiny_model(), prediction="v")
    with pytest.raises(ValueError, match='got "v"; set elbo_weight to 0'):
        latent_diffusion(model, Objective(elbo_weight=0.1))


def test_a_few_steps_lower_the_loss():
    """Identity: the gradient points down (one batch, one draw of noise)."""
    task = latent_diffusion(tiny_model(), Objective(distance="l1"))
    batch = batch_of(16)
    params, collections = jax.jit(task.init)(jax.random.key(0), batch)
    assert collections == {}
    optimizer = optax.adam(1e-2)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        loss = lambda p: loss_of(task, p, batch)[0]  # noqa: E731
        value, grad = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grad, state, params)
        return optax.apply_updates(params, updates), state, value

    values = []
    for _ in range(21):
        params, state, value = step(params, state)
        values.append(float(value))
    assert values[-1] < 0.8 * values[0]


def test_images_are_encoded_in_the_step_as_they_would_be_beforehand():
    """Identity: the same loss from images and from their moments."""
    model, task, params = echo_task(0.5, Objective())
    image = jax.random.uniform(jax.random.key(2), (4, 8, 8, 3), minval=-1)
    shapes = jax.eval_shape(model.autoencoder.init, jax.random.key(3), image)
    draw = np.random.default_rng(0).standard_normal
    weights = jax.tree.map(lambda x: 0.1 * draw(x.shape, np.float32), shapes)
    stage = {"autoencoder": weights["params"]}
    labels = {"label": jnp.array([0, 1, 2, 0])}
    moments = jax.jit(model.moments)(stage, image)
    from_images = latent_diffusion(model, Objective(), stage, encodes_images=True)
    assert set(from_images.frozen) == {"autoencoder"} and not task.frozen
    expected, _ = loss_of(task, params, {**labels, "moments": moments})
    actual, _ = loss_of(from_images, params, {**labels, "image": image})
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    real = latent_diffusion(tiny_model(), Objective(), stage, encodes_images=True)
    shapes = jax.eval_shape(real.init, jax.random.key(0), {**labels, "image": image})
    assert sorted(shapes[0]) == ["conditioner", "unet"]
