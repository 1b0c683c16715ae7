# SPDX-License-Identifier: Apache-2.0
"""The classifier of noisy latents: golden values, parameter counts, bad calls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.models.classifier import AttentionPool, LatentClassifier, log_probability
from tests.compiling import jit
from tests.golden import denoiser as golden

# The paper's LDM-8-G; head widths and attention as in its denoiser.
LDM8 = dict(
    num_classes=1000,
    channels=256,
    channel_mult=(1, 2, 4),
    latent_channels=4,
    latent_size=32,
    attention_levels=(0, 1, 2),
    head_channels=32,
)
TINY = dict(
    num_classes=3,
    channels=32,
    channel_mult=(1, 2),
    latent_channels=2,
    latent_size=4,
    num_res_blocks=1,
    head_channels=16,
)


def param_shapes(model):
    side = model.latent_size
    z_t = jax.ShapeDtypeStruct((1, side, side, model.latent_channels), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.int32)
    return jax.eval_shape(model.init, jax.random.key(0), z_t, t)["params"]


def from_original(meta):
    mult = tuple(meta["channel_mult"])
    levels = [n for n in range(len(mult)) if 2**n in meta["attention_resolutions"]]
    return LatentClassifier(
        num_classes=meta["out_channels"],
        channels=meta["model_channels"],
        channel_mult=mult,
        latent_channels=meta["in_channels"],
        latent_size=meta["image_size"],
        pool=meta["pool"],
        num_res_blocks=meta["num_res_blocks"],
        attention_levels=tuple(levels),
        head_channels=meta["num_head_channels"],
    )


@pytest.mark.parametrize("pool", ["attention", "spatial"])
def test_the_classifier_gives_the_golden_logits_and_gradient(pool):
    """Golden: the original implementation with the same weights."""
    arrays, record = golden.load(f"classifier-{pool}")
    model = from_original(record["meta"])
    rename = lambda names, keys: golden.classifier_weight(names, keys, model)  # noqa: E731
    params = golden.fill(param_shapes(model), rename, record["keys"])
    label = jnp.asarray(arrays["class_label"])

    def total(z_t):
        logits = model.apply({"params": params}, z_t, jnp.asarray(arrays["t"]))
        return log_probability(logits, label).sum(), logits

    (_, logits), gradient = jit(jax.value_and_grad(total, has_aux=True))(arrays["x_t"])

    def error(actual, expected):
        return np.linalg.norm(actual - expected) / np.linalg.norm(expected)

    # Float32 sums in another order.
    assert error(logits, arrays["logits"]) < 5e-5
    assert error(jax.nn.log_softmax(logits), arrays["log_prob"]) < 5e-5
    assert error(gradient, arrays["grad_x"]) < 2e-4
    loss = -log_probability(logits, label).mean()
    assert error(loss, arrays["loss"]) < 5e-5


def group_norm(x, scale, bias, num_groups=32, eps=1e-5):
    """GroupNorm of [B, ..., C] in float64, over positions and the C / 32 of a group."""
    groups = x.reshape(len(x), -1, num_groups, x.shape[-1] // num_groups)
    mean, variance = (f(groups, (1, 3), keepdims=True) for f in (np.mean, np.var))
    return ((groups - mean) / np.sqrt(variance + eps)).reshape(x.shape) * scale + bias


def silu(x):
    return x / (1 + np.exp(-x))


@pytest.mark.parametrize("pool", ["adaptive", "spatial_v2"])
def test_heads_without_golden_values_follow_their_formulas(pool):
    """Oracle: NumPy in float64, from what the head reads; no parameter is zero."""
    model = LatentClassifier(**TINY, pool=pool)
    shapes = param_shapes(model)
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    params = jax.tree.unflatten(
        tree,
        [
            0.3 * jax.random.normal(k, x.shape)
            for k, x in zip(keys, leaves, strict=True)
        ],
    )
    z_t, t = jax.random.normal(keys[0], (3, 4, 4, 2)), jnp.array([0, 500, 999])
    read = {"adaptive": "mid", "spatial_v2": "dense_0"}[pool]
    logits, seen = model.apply(
        *({"params": params}, z_t, t),
        capture_intermediates=lambda module, _: module.name == read,
    )
    (x,) = seen["intermediates"][read]["__call__"]
    x, head = np.float64(x), jax.tree.map(np.float64, params)
    if pool == "adaptive":
        x = silu(group_norm(x, **head["norm_out"])).mean((1, 2))
        kernel, bias = head["conv_out"]["kernel"][0, 0], head["conv_out"]["bias"]
    else:
        x = silu(group_norm(x, **head["norm"]))
        kernel, bias = head["dense_1"]["kernel"], head["dense_1"]["bias"]
    expected = x @ kernel + bias
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("pool", "count"),
    [
        ("adaptive", 108_388_840),
        ("attention", 111_604_200),
        ("spatial", 120_947_176),
        ("spatial_v2", 120_951_272),
    ],
)
def test_parameters_of_the_paper_are_counted(pool, count):
    """Paper: LDM-8-G has 506M (Tab. 10), 394.98M of them LDM-8."""
    shapes = param_shapes(LatentClassifier(**LDM8, pool=pool))
    assert sum(np.prod(x.shape) for x in jax.tree.leaves(shapes)) == count


def test_the_pixel_classifier_of_the_diffusion_paper_is_counted():
    """Paper: 54M (Dhariwal & Nichol 2021, Tab. 12)."""
    model = LatentClassifier(
        num_classes=1000,
        channels=128,
        channel_mult=(1, 1, 2, 2, 4, 4),
        latent_channels=3,
        latent_size=256,
        attention_levels=(3, 4, 5),
        head_channels=64,
        scale_shift_norm=True,
        resblock_updown=True,
    )
    shapes = param_shapes(model)
    assert sum(np.prod(x.shape) for x in jax.tree.leaves(shapes)) == 54_096_360


def test_pooling_sees_the_order_of_positions_through_their_embedding_alone():
    """Identity: without the position embedding, permuted positions pool alike."""
    pool = AttentionPool(features=3, head_channels=4)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 3, 3, 8)), jnp.float32)
    permuted = x.reshape(2, 9, 8)[:, rng.permutation(9)].reshape(x.shape)
    params = pool.init(jax.random.key(0), x)["params"]
    moved = pool.apply({"params": params}, permuted) - pool.apply({"params": params}, x)
    assert np.abs(moved).max() > 1e-3
    params["position_embedding"] *= 0
    np.testing.assert_allclose(
        pool.apply({"params": params}, permuted),
        pool.apply({"params": params}, x),
        atol=1e-6,  # float32 sums in another order
    )


def test_a_sample_does_not_depend_on_its_batch():
    model = LatentClassifier(**TINY)
    rng = np.random.default_rng(0)
    z_t = jnp.asarray(rng.standard_normal((3, 4, 4, 2)), jnp.float32)
    t = jnp.array([0, 5, 999])
    params = model.init(jax.random.key(0), z_t, t)
    alone = model.apply(params, z_t[1:2], t[1:2])
    np.testing.assert_allclose(model.apply(params, z_t, t)[1:2], alone, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(pool="mean"), "pool must be one of adaptive, attention"),
        (dict(head_channels=None), "exactly one of num_heads and head_channels"),
        (dict(head_channels=None, num_heads=2), "needs head_channels"),
        (dict(attention_levels=(2,)), r"attention_levels must be in 0..1"),
        (dict(num_classes=1), "at least two classes"),
        (dict(latent_size=5), "multiple of 2"),
        (dict(remat="some"), "remat must be one of"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        LatentClassifier(**{**TINY, **changes})


@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 8, 8, 2), "latents of 4x4 only"), ((1, 4, 4, 3), "of 2 channels")],
)
def test_latents_of_another_shape_are_refused(shape, message):
    model = LatentClassifier(**TINY)
    with pytest.raises(ValueError, match=message):
        model.init(jax.random.key(0), jnp.zeros(shape), jnp.zeros(1, jnp.int32))
