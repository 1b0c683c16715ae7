# SPDX-License-Identifier: Apache-2.0
"""Optimizers, schedules and the average, against closed forms and printed values."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldm_jax.training.optimizer import (
    ema_decay,
    make_optimizer,
    update_ema,
)

PARAMS = {"unet": {"w": jnp.array([1.0, -2.0])}, "other": {"w": jnp.array([3.0])}}
GRADS = {"unet": {"w": jnp.array([30.0, 40.0])}, "other": {"w": jnp.array([0.1])}}


def update(optimizer, steps=1):
    """Returns the change of the parameters after some steps along GRADS."""
    params, state = PARAMS, optimizer.init(PARAMS)
    for _ in range(steps):
        updates, state = optimizer.update(GRADS, state, params)
        params = optax.apply_updates(params, updates)
    return jax.tree.map(lambda a, b: np.asarray(a - b), params, PARAMS)


def test_adamw_decays_every_parameter_by_a_hundredth_as_pytorch_does():
    """Oracle: Adam's first step is lr * sign(g); AdamW adds lr * 0.01 * w."""
    change = update(make_optimizer(learning_rate=0.1))
    np.testing.assert_allclose(
        change["unet"]["w"], [-0.1 - 1e-3, -0.1 + 2e-3], rtol=1e-5
    )


def test_adam_has_no_weight_decay_and_refuses_one():
    change = update(make_optimizer("adam", learning_rate=0.1))
    np.testing.assert_allclose(change["unet"]["w"], [-0.1, -0.1], rtol=1e-5)
    with pytest.raises(ValueError, match="no meaning"):
        make_optimizer("adam", weight_decay=0.1).init(PARAMS)


def test_b1_b2_and_eps_are_adams():
    """Oracle: optax.adam with the same values."""
    fields = dict(b1=0.5, b2=0.9, eps=1e-3)
    actual = update(make_optimizer("adam", 0.1, **fields), steps=3)
    expected = update(optax.adam(0.1, **fields), steps=3)
    jax.tree.map(np.testing.assert_allclose, actual, expected)


def test_clipping_looks_at_each_network_alone():
    """Oracle: eps large makes Adam's step proportional to g; unet's norm is 50.

    The tolerance is |g| / eps, by which the step is not quite proportional.
    """
    plain = update(make_optimizer("adam", 1.0, eps=1e3))
    clipped = update(make_optimizer("adam", 1.0, eps=1e3, clip_norm=5.0))
    np.testing.assert_allclose(clipped["unet"]["w"], plain["unet"]["w"] / 10, rtol=0.06)
    np.testing.assert_allclose(clipped["other"]["w"], plain["other"]["w"])


def test_a_network_can_have_its_own_rate():
    networks = {"other": {"learning_rate": 0.5}}
    change = update(make_optimizer("adam", 0.1, networks=networks))
    np.testing.assert_allclose(change["unet"]["w"], [-0.1, -0.1], rtol=1e-5)
    np.testing.assert_allclose(change["other"]["w"], [-0.5], rtol=1e-5)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (dict(name="sgdd"), "one of: adam, adamw"),
        (dict(networks={"unte": {}}), "it trains \\['other', 'unet'\\]"),
        (dict(networks={"unet": {"rate": 1}}), "unknown fields \\['rate'\\]"),
        (dict(schedule={"name": "warmup"}), "warmup_cosine"),
    ],
)
def test_errors_list_the_names_that_exist(spec, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(**spec).init(PARAMS)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("b1", 1.0), ("b2", -0.1), ("b2", math.nan), ("eps", 0.0)],
        *[("weight_decay", -1.0), ("weight_decay", math.inf)],
        *[("clip_norm", 0.0), ("clip_norm", -1.0), ("clip_norm", math.nan)],
        *[("learning_rate", math.nan), ("learning_rate", math.inf)],
    ],
)
def test_numbers_out_of_range_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=rf"optimizer\.{field} must be"):
        make_optimizer(**{field: value})
    with pytest.raises(ValueError, match=rf"networks\.unet\.{field} must be"):
        make_optimizer(networks={"unet": {field: value}})


def test_a_schedule_multiplies_the_rate_and_optax_schedules_go_by_name():
    """Oracle: factor 0 after one step leaves the first step of Adam only."""
    spec = {
        "name": "piecewise_constant_schedule",
        "init_value": 1.0,
        "boundaries_and_scales": {1: 0.0},
    }
    change = update(make_optimizer("adam", 0.1, schedule=spec), steps=3)
    np.testing.assert_allclose(change["unet"]["w"], [-0.1, -0.1], rtol=1e-5)


def test_ema_decay_follows_the_released_code():
    """Golden: LitEma at updates 1, 10, 100, 1000 and past saturation."""
    got = [float(ema_decay(n, 0.9999)) for n in (1, 10, 100, 1000, 10**6)]
    np.testing.assert_allclose(got, [2 / 11, 0.55, 0.9182, 0.99109, 0.9999], rtol=1e-4)


def test_the_average_moves_by_one_minus_decay():
    """Oracle: 0.9 * 2 + 0.1 * 1 = 1.9."""
    ema = update_ema(
        {"unet": {"w": jnp.array(2.0)}}, {"unet": {"w": jnp.array(1.0)}}, 0.9
    )
    np.testing.assert_allclose(ema["unet"]["w"], 1.9, rtol=1e-6)
