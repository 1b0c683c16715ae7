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
from ldm_jax.models.coders import Downsample
from ldm_jax.models.discriminator import PatchConv
from ldm_jax.models.layers import Conv, Dense, GroupNorm, Upsample, double, halve


def normal(seed, shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def torch_conv(x, kernel, bias, stride, padding):
    """Cross-correlation of [H, W, C] in float64; padding as for `Conv`."""
    x = np.pad(np.float64(x), (*padding, (0, 0)))
    size = kernel.shape[0]
    rows = (x.shape[0] - size) // stride + 1
    columns = (x.shape[1] - size) // stride + 1
    y = np.empty((rows, columns, kernel.shape[-1]))
    for i in range(rows):
        for j in range(columns):
            patch = x[i * stride : i * stride + size, j * stride : j * stride + size]
            y[i, j] = np.tensordot(patch, np.float64(kernel), 3) + bias
    return y


def run(module, x):
    """Applies a module with random parameters; returns its output and {leaf: array}."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    params = jax.tree.map(lambda s: jnp.asarray(normal(s.size, s.shape)), shapes)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return module.apply(params, x), {path[-1].key: np.asarray(v) for path, v in leaves}


@pytest.mark.parametrize("size", [(6, 8), (7, 5)])
def test_first_stage_downsample_pads_below_and_right_only(size):
    """Oracle, at even and odd sizes; "SAME" has another shape at odd ones."""
    x = normal(0, (1, *size, 3))
    y, leaves = run(Downsample(4), jnp.asarray(x))
    expected = torch_conv(x[0], leaves["kernel"], leaves["bias"], 2, ((0, 1), (0, 1)))
    assert y.shape[1:3] == (size[0] // 2, size[1] // 2)
    np.testing.assert_allclose(y[0], expected, atol=1e-4)


def test_default_padding_at_stride_two_is_symmetric():
    """Oracle: the UNet's downsampling; "SAME" pads even sizes below and right only."""
    x = normal(0, (1, 6, 8, 3))
    y, leaves = run(Conv(4, stride=2), jnp.asarray(x))
    arguments = x[0], leaves["kernel"], leaves["bias"], 2
    np.testing.assert_allclose(
        y[0], torch_conv(*arguments, ((1, 1), (1, 1))), atol=1e-4
    )
    trap = torch_conv(*arguments, ((0, 1), (0, 1)))
    assert np.abs(y[0] - trap).max() > 1


def test_discriminator_convolution_of_stride_one_loses_a_row():
    """Oracle: 8 -> 7, where "SAME" keeps 8."""
    x = normal(0, (1, 8, 8, 3))
    y, leaves = run(PatchConv(4, stride=1), jnp.asarray(x))
    expected = torch_conv(x[0], leaves["kernel"], leaves["bias"], 1, ((1, 1), (1, 1)))
    assert y.shape == (1, 7, 7, 4)
    np.testing.assert_allclose(y[0], expected, atol=1e-4)


def test_upsample_equals_doubling_then_a_3x3_convolution():
    """Identity: the four phases against the plain way, borders included."""
    x = normal(0, (2, 3, 5, 4))
    y, leaves = run(Upsample(6), jnp.asarray(x))
    for n in range(2):
        doubled = x[n].repeat(2, 0).repeat(2, 1)
        padding = ((1, 1), (1, 1))
        plain = torch_conv(doubled, leaves["kernel"], leaves["bias"], 1, padding)
        np.testing.assert_allclose(y[n], plain, atol=1e-4)


def test_double_repeats_pixels_and_halve_averages_them():
    """Oracle: torch's nearest x2 and bilinear x0.5 (jax.image.resize blurs more)."""
    x = jnp.asarray(normal(0, (1, 4, 6, 2)))
    assert (double(x) == x.repeat(2, 1).repeat(2, 2)).all()
    blocks = np.asarray(x).reshape(1, 2, 2, 3, 2, 2).mean((2, 4))
    np.testing.assert_allclose(halve(x), blocks, atol=1e-6)
    np.testing.assert_allclose(halve(double(x)), x, atol=1e-6)
    blurred = jax.image.resize(x, (1, 2, 3, 2), "bilinear")
    assert float(jnp.abs(blurred - halve(x)).max()) > 0.05


def test_nearest_downsampling_is_a_slice_and_not_jax_image_resize():
    """Oracle: torch takes pixel floor(i k), jax.image.resize half-pixel centres."""
    x = jnp.arange(256.0).reshape(16, 16)
    assert x[::4, ::4][0].tolist() == [0, 4, 8, 12]
    assert jax.image.resize(x, (4, 4), "nearest")[0].tolist() == [34, 38, 42, 46]


@pytest.mark.parametrize("eps", [1e-6, 1e-5])
def test_group_norm_uses_its_eps(eps):
    """Oracle, on data small enough for eps to matter."""
    x = 1e-3 * normal(0, (2, 3, 3, 64))
    y, leaves = run(GroupNorm(eps), jnp.asarray(x))
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
    x = np.random.default_rng(0).standard_normal((2, 9, 32, 3), np.float32)
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
