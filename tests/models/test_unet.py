# SPDX-License-Identifier: Apache-2.0
"""The UNet: golden values, the paper's parameter counts, every option, bad calls."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.models.unet import UNet
from ldm_jax.types import Conditioning
from tests.compiling import jit
from tests.models.tiny_unet import TINY, example

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "denoiser.py"
spec = importlib.util.spec_from_file_location("golden_denoiser", GOLDEN)
golden = importlib.util.module_from_spec(spec)
spec.loader.exec_module(golden)


def param_shapes(unet, size=4):
    init = jax.eval_shape(unet.init, jax.random.key(0), *example(unet, size))
    return init["params"]


def draw(shapes, key=0):
    """Normal values for a tree of shapes, weights by fan-in; integers in {0, 1}."""
    rng = np.random.default_rng(key)

    def leaf(x):
        if x.dtype == jnp.int32:
            return jnp.asarray(rng.integers(0, 2, x.shape), jnp.int32)
        scale = np.prod(x.shape[:-1]) ** -0.5 if len(x.shape) > 1 else 0.3
        return jnp.asarray(scale * rng.standard_normal(x.shape), jnp.float32)

    return jax.tree.map(leaf, shapes)


def from_original(params):
    """Reads the original's UNet options: names of fields, factors to levels."""
    mult = tuple(params["channel_mult"])
    levels = [
        level
        for level in range(len(mult))
        if 2**level in params["attention_resolutions"]
    ]
    heads = params.get("num_head_channels", -1)
    transformer = params.get("use_spatial_transformer", False)
    return UNet(
        channels=params["model_channels"],
        channel_mult=mult,
        in_channels=params["in_channels"],
        out_channels=params["out_channels"],
        num_res_blocks=params["num_res_blocks"],
        attention_levels=tuple(levels),
        num_heads=params.get("num_heads") if heads == -1 else None,
        head_channels=None if heads == -1 else heads,
        transformer_depth=params.get("transformer_depth", 1) if transformer else 0,
        context_dim=params.get("context_dim"),
        scale_shift_norm=params.get("use_scale_shift_norm", False),
        resblock_updown=params.get("resblock_updown", False),
    )


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("celeba256", 3e-5),
        # Rounding of single precision alone: 3.8e-5 here and 4.3e-5 in the original,
        # each beside double precision.
        ("cin256", 1e-4),
        ("text2img256", 3e-5),
        ("lsun_churches256", 1.5e-5),
    ],
)
def test_released_models_predict_the_golden_noise(name, tolerance):
    """Golden: the original implementation with the same weights."""
    arrays, record = golden.load(f"tiny-{name}")
    unet = from_original(record["meta"]["unet_config"]["params"])
    rename = lambda names, keys: golden.unet_weight(names, keys, unet)  # noqa: E731
    params = golden.fill(param_shapes(unet, 16), rename, record["keys"])
    cond = Conditioning(context=arrays.get("context"))
    predict = jit(unet.apply)
    eps = predict({"params": params}, arrays["x_t"], arrays["t"], cond)
    error = np.linalg.norm(eps - arrays["eps"]) / np.linalg.norm(arrays["eps"])
    # Sums in another order: 1.3e-5, 5.0e-5, 1.3e-5 and 4.7e-6 were measured.
    assert error < tolerance


# The sizes of the others: tests/test_configs.py, from their configs.
CHURCHES = dict(
    channels=192,
    channel_mult=(1, 2, 2, 4, 4),
    out_channels=4,
    num_heads=8,
    attention_levels=(0, 1, 2, 3),
)
RETRIEVAL = dict(
    channels=448,
    channel_mult=(1, 2, 3, 4),
    out_channels=16,
    head_channels=32,
    attention_levels=(0, 1, 2),
    transformer_depth=1,
    context_dim=768,
)


def count(fields):
    return sum(x.size for x in jax.tree.leaves(param_shapes(UNet(**fields), 32)))


def test_the_released_retrieval_model_has_its_number_of_parameters():
    """Golden: parameters of the original of 768x768, which no config trains."""
    assert count(RETRIEVAL) == 1_335_480_400


def test_churches_without_its_two_options_is_the_paper_s_model():
    """Paper: Tab. 18 prints 256 M, the released config has more."""
    assert round(count(CHURCHES) / 1e6, 2) == 256.40


OPTIONS = {
    "plain": {},
    "attention": dict(attention_levels=(1,)),
    "transformer": dict(attention_levels=(1,), transformer_depth=2, context_dim=6),
    "self_transformer": dict(attention_levels=(1,), transformer_depth=1),
    "classes": dict(num_classes=5),
    "concat": dict(in_channels=7),
    "scale_shift": dict(scale_shift_norm=True),
    "updown": dict(resblock_updown=True),
    "pooled": dict(conv_resample=False),
    "two_blocks": dict(num_res_blocks=2),
    "dropout": dict(dropout=0.5),
}


@pytest.mark.slow  # a dozen gradients to compile
@pytest.mark.parametrize("option", sorted(OPTIONS))
def test_every_option_depends_on_all_inputs_and_parameters(option):
    """Identity: what never matters would be an ignored option."""
    unet = UNet(**(TINY | OPTIONS[option]))
    inputs = draw(example(unet))
    params = draw(param_shapes(unet), key=1)

    def loss(params, z_t, context, concat):
        cond = Conditioning(context, concat, inputs[2].class_label)
        eps = unet.apply({"params": params}, z_t, inputs[1], cond)
        return jnp.sum(jnp.sin(eps))

    cond = inputs[2]
    gradients = jit(jax.grad(loss, argnums=(0, 1)))(
        params, inputs[0], cond.context, cond.concat
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        # A key's bias shifts all logits of a query alike: its gradient is zero.
        if "'k'" not in str(path) or "bias" not in str(path):
            # Rounding leaves about 1e-7 where there is no dependence.
            assert float(jnp.abs(leaf).max()) > 1e-5, jax.tree_util.keystr(path)


def test_new_model_predicts_nothing_yet():
    """Identity: the last convolution starts at zero."""
    unet = UNet(**TINY)
    inputs = draw(example(unet))
    eps, _ = jit(unet.init_with_output)(jax.random.key(0), *inputs)
    assert not eps.any()


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["full", "convs"])
def test_rematerialisation_changes_no_number(policy):
    unet = UNet(**(TINY | OPTIONS["transformer"]))
    inputs, params = draw(example(unet)), draw(param_shapes(unet), key=1)

    def gradient(unet):
        loss = lambda p: jnp.sum(unet.apply({"params": p}, *inputs) ** 2)  # noqa: E731
        return jit(jax.grad(loss))(params)

    kept, recomputed = gradient(unet), gradient(unet.clone(remat=policy))
    for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(recomputed), strict=True):
        # The same sums, fused differently.
        assert np.linalg.norm(a - b) < 1e-4 * np.linalg.norm(a)


def test_bfloat16_computes_close_to_float32_and_returns_float32():
    unet = UNet(**(TINY | OPTIONS["transformer"]))
    inputs, params = draw(example(unet)), draw(param_shapes(unet), key=1)
    exact = jit(unet.apply)({"params": params}, *inputs)
    half = jit(unet.clone(dtype=jnp.bfloat16).apply)({"params": params}, *inputs)
    assert half.dtype == jnp.float32
    # 8 bits of mantissa through some thirty layers.
    assert np.linalg.norm(half - exact) / np.linalg.norm(exact) < 0.05


def test_dropout_acts_only_in_training():
    unet = UNet(**(TINY | OPTIONS["dropout"]))
    inputs, params = draw(example(unet)), draw(param_shapes(unet), key=1)

    def predict(is_training, seed):
        rngs = {"dropout": jax.random.key(seed)}
        apply = jit(unet.apply, static_argnums=4)
        return apply({"params": params}, *inputs, is_training, rngs=rngs)

    assert (predict(False, 0) == predict(False, 1)).all()
    assert (predict(True, 0) != predict(True, 1)).any()


def test_sizes_that_the_levels_divide_are_taken_and_others_refused():
    unet = UNet(**TINY)
    params = draw(param_shapes(unet))
    t = jnp.zeros(1, jnp.int32)
    eps = jax.eval_shape(unet.apply, {"params": params}, jnp.zeros((1, 6, 10, 4)), t)
    assert eps.shape == (1, 6, 10, 4)
    with pytest.raises(ValueError, match="divisible by 2"):
        unet.apply({"params": params}, jnp.zeros((1, 6, 9, 4)), t)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(num_heads=2), "exactly one of num_heads and head_channels"),
        (dict(head_channels=0), "one head of one channel"),
        (dict(channel_mult=()), "one level in channel_mult"),
        (dict(attention_levels=(2,)), r"must be in 0\.\.1"),
        (dict(context_dim=8), "set transformer_depth"),
        (dict(channels=48), "multiple of 32"),
        (dict(remat="blocks"), "one of: convs, full, none"),
    ],
)
def test_fields_that_contradict_are_refused_when_made(fields, message):
    with pytest.raises(ValueError, match=message):
        UNet(**(TINY | fields))


@pytest.mark.parametrize(
    ("fields", "change", "message"),
    [
        ({}, dict(context=jnp.zeros((2, 3, 6))), "UNet.context_dim"),
        (OPTIONS["transformer"], dict(context=None), "got no context"),
        (OPTIONS["concat"], dict(concat=None), "in_channels=7"),
        (
            {},
            dict(class_label=jnp.zeros(2, jnp.int32)),
            "must be given if UNet.num_classes is set",
        ),
        (OPTIONS["concat"], dict(concat=jnp.zeros((2, 2, 2, 3))), "height and width"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(fields, change, message):
    unet = UNet(**(TINY | fields))
    z_t, t, cond = draw(example(unet))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(unet.init, jax.random.key(0), z_t, t, cond._replace(**change))
