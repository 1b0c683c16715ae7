# SPDX-License-Identifier: Apache-2.0
"""PatchGAN: counts, maps, receptive fields, and PyTorch's BatchNorm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.models.first_stage.discriminator import (
    MOMENTUM,
    BatchNorm,
    Discriminator,
    PatchConv,
)
from tests.models.oracles import normal, run, torch_conv


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("num_layers", "parameters", "side"),
    [(2, 663_361, 62), (3, 2_765_633, 30), (4, 6_960_961, 14)],
)
def test_counts_and_maps_are_those_of_the_original(num_layers, parameters, side):
    """Paper: parameters, and the map of logits of a 256x256 image."""
    model = Discriminator(num_layers)
    image = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
    logits, variables = jax.eval_shape(
        lambda key: model.init_with_output(key, jnp.zeros(image.shape)),
        jax.random.key(0),
    )
    assert count(variables["params"]) == parameters
    assert logits.shape == (1, side, side, 1)


@pytest.fixture(scope="module")
def small():
    model = Discriminator(num_layers=2, channels=8)
    image = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (4, 40, 40, 3)))
    return model, model.init(jax.random.key(0), image), image


def test_a_logit_sees_34_pixels(small):
    """Paper: receptive field at num_layers = 2, with fixed statistics."""
    model, variables, image = small

    def centre(x):
        logits = model.apply(variables, x)
        return logits[0, 4, 4, 0]

    seen = jnp.abs(jax.grad(centre)(image))[0].sum((1, 2)) > 0
    assert int(seen.sum()) == 34


def test_kernels_are_drawn_from_a_narrow_normal(small):
    """Paper: weights N(0, 0.02), BatchNorm N(1, 0.02) with bias 0."""
    params = small[1]["params"]
    kernel = params["conv_1"]["kernel"]
    assert abs(float(kernel.std()) - 0.02) < 0.002 and "bias" not in params["conv_1"]
    assert abs(float(params["norm_1"]["scale"].mean()) - 1) < 0.02
    assert not params["norm_1"]["bias"].any()
    assert params["conv_0"]["bias"].any() and params["conv_out"]["bias"].any()


@pytest.mark.parametrize("deviation", [2.0, 0.003])
def test_running_statistics_follow_pytorchs_rule(deviation):
    """Oracle: 0.9 old + 0.1 new, with the unbiased variance (flax has the biased).

    The eps of 1e-5 shows where the variance is as small.
    """
    x = np.random.default_rng(0).normal(0.5, deviation, (2, 3, 3, 5))
    x = x.astype(np.float32)
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), jnp.asarray(x), True)
    assert (variables["batch_stats"]["var"] == 1).all()
    y, moved = norm.apply(variables, jnp.asarray(x), True, mutable=["batch_stats"])
    rows = x.reshape(-1, 5)
    stats = moved["batch_stats"]
    np.testing.assert_allclose(stats["mean"], MOMENTUM * rows.mean(0), rtol=1e-5)
    expected = (1 - MOMENTUM) + MOMENTUM * rows.var(0, ddof=1)
    np.testing.assert_allclose(stats["var"], expected, rtol=1e-5)
    normal = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)
    scaled = normal * np.asarray(variables["params"]["scale"])
    np.testing.assert_allclose(y.reshape(-1, 5), scaled, atol=1e-4)


def test_out_of_training_the_running_statistics_are_used(small):
    """Identity: a sample's logits do not depend on the rest of the batch."""
    model, variables, image = small
    whole = model.apply(variables, image)
    np.testing.assert_allclose(model.apply(variables, image[:1]), whole[:1], atol=1e-5)
    trained, _ = model.apply(variables, image, True, mutable=["batch_stats"])
    assert float(jnp.abs(trained - whole).max()) > 1e-4


def test_batch_groups_normalize_each_slice_by_itself(small):
    """Identity: two groups of two are two batches of two; statistics are averaged."""
    model, variables, image = small
    grouped = model.clone(batch_groups=2)
    logits, moved = grouped.apply(variables, image, True, mutable=["batch_stats"])
    halves = [
        model.apply(variables, half, True, mutable=["batch_stats"])
        for half in jnp.split(image, 2)
    ]
    together = jnp.concatenate([half[0] for half in halves])
    np.testing.assert_allclose(logits, together, atol=1e-5)
    average = jax.tree.map(lambda a, b: (a + b) / 2, halves[0][1], halves[1][1])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), moved, average
    )


def test_images_too_small_and_uneven_groups_are_refused():
    with pytest.raises(ValueError, match="24x24 at least: got 23x64"):
        Discriminator(3).check((1, 23, 64, 3))
    with pytest.raises(ValueError, match="batch_groups=2"):
        Discriminator(2, batch_groups=2).check((3, 64, 64, 3))


def test_discriminator_convolution_of_stride_one_loses_a_row():
    """Oracle: 8 -> 7, where "SAME" keeps 8."""
    x = normal(0, (1, 8, 8, 3))
    y, leaves = run(PatchConv(4, stride=1), x)
    expected = torch_conv(x[0], leaves["kernel"], leaves["bias"], 1, ((1, 1), (1, 1)))
    assert y.shape == (1, 7, 7, 4)
    np.testing.assert_allclose(y[0], expected, atol=1e-4)
