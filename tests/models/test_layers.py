# SPDX-License-Identifier: Apache-2.0
"""Layers: each trap of padding, resizing and eps, with the numbers PyTorch gives.

The oracles are loops in NumPy float64 that follow PyTorch's definitions.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.models import layers
from ldm_jax.models.attention import attention
from ldm_jax.models.layers import Conv, Dense, GroupNorm
from ldm_jax.models.resampling import Upsample
from tests.models.oracles import normal, run, torch_conv


def test_default_padding_at_stride_two_is_symmetric():
    """Oracle: the UNet's downsampling; "SAME" pads even sizes below and right only."""
    x = normal(0, (1, 6, 8, 3))
    y, leaves = run(Conv(4, stride=2), x)
    arguments = x[0], leaves["kernel"], leaves["bias"], 2
    np.testing.assert_allclose(
        y[0], torch_conv(*arguments, ((1, 1), (1, 1))), atol=1e-4
    )
    trap = torch_conv(*arguments, ((0, 1), (0, 1)))
    assert np.abs(y[0] - trap).max() > 1


@pytest.mark.parametrize("eps", [1e-6, 1e-5])
def test_group_norm_uses_its_eps(eps):
    """Oracle, on data small enough for eps to matter."""
    x = 1e-3 * normal(0, (2, 3, 3, 64))
    y, leaves = run(GroupNorm(eps), x)
    groups = np.float64(x).reshape(2, 9, 32, 2)
    mean, var = groups.mean((1, 3), keepdims=True), groups.var((1, 3), keepdims=True)
    expected = ((groups - mean) / np.sqrt(var + eps)).reshape(x.shape)
    expected = expected * leaves["scale"] + leaves["bias"]
    np.testing.assert_allclose(y, expected, atol=1e-4)


def test_group_norm_has_no_default_eps():
    """The published models differ by place, so each place has to say."""
    with pytest.raises(TypeError, match="eps"):
        GroupNorm()


def test_group_norm_keeps_bfloat16_but_counts_in_float32():
    """With a mean of 100, statistics in bfloat16 would lose the variance."""
    x = jnp.asarray(100 + normal(0, (1, 8, 8, 64)), jnp.bfloat16)
    y, leaves = run(GroupNorm(1e-6), x)
    assert y.dtype == jnp.bfloat16
    groups = np.asarray(x, np.float64).reshape(1, 64, 32, 2)
    normed = groups - groups.mean((1, 3), keepdims=True)
    normed = (normed / groups.std((1, 3), keepdims=True)).reshape(x.shape)
    expected = normed * leaves["scale"] + leaves["bias"]
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(("platform", "steps"), [("cpu", 2), ("gpu", 1), ("tpu", 1)])
def test_group_norm_averages_in_two_steps_on_a_cpu_alone(platform, steps):
    """Oracle: NumPy's mean over positions and the channels of a group."""
    x = normal(0, (2, 9, 32, 3))
    with attention.planned_for(platform):
        program = jax.make_jaxpr(lambda x: layers.mean_of_groups(x))(x)
        y = layers.mean_of_groups(x)
    assert str(program).count("reduce_sum") == steps
    # 27 numbers of magnitude 1: float32 rounds to about 1e-7.
    np.testing.assert_allclose(y, x.mean((1, 3), keepdims=True), atol=1e-6)
    with attention.portable():
        program = jax.make_jaxpr(lambda x: layers.mean_of_groups(x))(x)
    assert str(program).count("reduce_sum") == 1


def test_group_norm_refuses_channels_its_groups_do_not_divide():
    with pytest.raises(ValueError, match="num_groups=32: got 48"):
        GroupNorm(1e-6).init(jax.random.key(0), jnp.zeros((1, 2, 2, 48)))


@pytest.mark.parametrize("layer", [Conv(512), Dense(512)])
def test_weights_and_biases_start_as_pytorchs(layer):
    """Oracle: U(-1/sqrt(fan_in), 1/sqrt(fan_in)), standard deviation bound/sqrt(3)."""
    params = layer.init(jax.random.key(0), jnp.zeros((1, 4, 4, 16)))["params"]
    bound = (16 * (9 if isinstance(layer, Conv) else 1)) ** -0.5
    for leaf in params.values():
        assert 0.95 * bound < float(jnp.abs(leaf).max()) <= bound
        assert float(leaf.std()) == pytest.approx(bound / 3**0.5, rel=0.1)
    silent = layer.clone(zero_init=True).init(
        jax.random.key(0), jnp.ones((1, 4, 4, 16))
    )
    assert not any(leaf.any() for leaf in jax.tree.leaves(silent))


@pytest.mark.parametrize("layer", [Conv(4), Dense(4), Upsample(4)])
def test_dtype_sets_the_arithmetic_and_not_the_parameters(layer):
    x = jnp.ones((1, 4, 4, 8))
    shapes = jax.eval_shape(layer.clone(dtype=jnp.bfloat16).init, jax.random.key(0), x)
    assert {s.dtype for s in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    y, _ = run(layer.clone(dtype=jnp.bfloat16), x)
    assert y.dtype == jnp.bfloat16 and run(layer, x)[0].dtype == jnp.float32


@pytest.mark.parametrize("layer", [Conv(4), Dense(4)])
def test_use_bias_false_declares_no_bias(layer):
    y, leaves = run(layer.clone(use_bias=False), jnp.ones((1, 4, 4, 8)))
    assert set(leaves) == {"kernel"} and y.shape == (1, 4, 4, 4)
