# SPDX-License-Identifier: Apache-2.0
"""LPIPS: shapes of the published weights, zero at equal images, no NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.models.features.lpips import (
    LPIPS,
    SMALLEST,
    TRUNKS,
    SqueezeNet,
    pool_ceil,
    unit_length,
)

# torchvision's convolutions plus LPIPS' linear weights: biases and kernels counted.
COUNTS = {
    "vgg": 14_714_688 + 1_472,
    "alex": 2_469_696 + 1_152,
    "squeeze": 722_496 + 2_240,
}


def setup(trunk, side=33):
    rng = np.random.default_rng(0)
    images = [
        jnp.asarray(rng.uniform(-1, 1, (2, side, side, 3)), jnp.float32)
        for _ in range(2)
    ]
    model = LPIPS(trunk)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *images)["params"]
    params = jax.tree.map(
        lambda x: jnp.asarray(
            np.abs(rng.normal(0, 1, x.shape))
            if x.ndim == 1
            else rng.normal(0, (2 / np.prod(x.shape[:-1])) ** 0.5, x.shape),
            jnp.float32,
        ),
        shapes,
    )
    return model, params, images


@pytest.mark.parametrize("trunk", sorted(COUNTS))
def test_parameters_are_those_of_the_published_networks(trunk):
    """Paper: features of torchvision's models and the linear weights of v0.1."""
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(LPIPS(trunk).init, jax.random.key(0), image, image)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == COUNTS[trunk]


@pytest.mark.parametrize("trunk", ["alex", "squeeze"])
def test_distance_is_symmetric_positive_and_zero_at_equal_images(trunk):
    model, params, (first, second) = setup(trunk)
    distance = model.apply({"params": params}, first, second)
    assert distance.shape == (2,) and (distance > 0).all()
    back = model.apply({"params": params}, second, first)
    np.testing.assert_allclose(distance, back, rtol=1e-5)
    assert not model.apply({"params": params}, first, first).any()


def test_gradient_at_equal_images_and_at_dead_features_is_finite():
    """The root of the length has an infinite slope at zero: the original gives NaN."""
    model, params, (first, _) = setup("alex")
    # A trunk of zero kernels and biases: every feature vector is zero.
    dead = {**params, "trunk": jax.tree.map(jnp.zeros_like, params["trunk"])}
    for weights in (params, dead):
        grad = jax.grad(lambda x: model.apply({"params": weights}, first, x).sum())  # noqa: B023
        assert jnp.isfinite(grad(first)).all()


def test_unit_length_divides_by_the_length_and_keeps_zero():
    x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(unit_length(x), [[0.6, 0.8], [0, 0]], atol=1e-7)
    assert jnp.isfinite(jax.jacobian(unit_length)(x)).all()


def test_dropout_is_off_by_default():
    model, params, (first, second) = setup("squeeze")
    plain = model.apply({"params": params}, first, second)
    assert (plain == model.apply({"params": params}, first, second)).all()
    rngs = {"dropout": jax.random.key(0)}
    dropped = model.clone(dropout=0.5).apply(
        {"params": params}, first, second, rngs=rngs
    )
    assert (dropped != plain).all()
    np.testing.assert_allclose(dropped, plain, rtol=0.3)


def test_squeezenet_pools_with_partial_windows():
    """Oracle: torch's ceil_mode takes 8 -> 4, where whole windows alone give 3."""
    x = jnp.arange(64.0).reshape(1, 8, 8, 1)
    assert pool_ceil(x)[0, :, :, 0].tolist() == [
        [18, 20, 22, 23],
        [34, 36, 38, 39],
        [50, 52, 54, 55],
        [58, 60, 62, 63],
    ]
    assert pool_ceil(x[:, :7, :7]).shape == (1, 3, 3, 1)
    shapes = jax.eval_shape(
        SqueezeNet().init_with_output, jax.random.key(0), jnp.zeros((1, 65, 65, 3))
    )[0]
    widths = [feature.shape[-1] for feature in shapes]
    assert widths == [64, 128, 256, 384, 384, 512, 512]


def test_unknown_trunk_is_refused_when_built():
    with pytest.raises(ValueError, match="unknown LPIPS trunk"):
        LPIPS("resnet")


@pytest.mark.parametrize("trunk", sorted(TRUNKS))
def test_images_whose_last_features_would_be_empty_are_refused(trunk):
    """Identity: one pixel less, and a feature map has no pixel."""
    side, key = SMALLEST[trunk], jax.random.key(0)
    for size, is_empty in ((side, False), (side - 1, True)):
        image = jnp.zeros((1, size, 64, 3))
        shapes = jax.eval_shape(TRUNKS[trunk]().init_with_output, key, image)[0]
        assert any(0 in feature.shape for feature in shapes) == is_empty
    with pytest.raises(ValueError, match=f"images of {side}x{side} at least"):
        jax.eval_shape(LPIPS(trunk).init, key, image, image)
