# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning: matching parameters of another model are taken, and reported."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.models.unet import UNet
from ldm_jax.training.checkpoints.params import load_params, save_params
from ldm_jax.training.initial import take_params
from ldm_jax.types import Conditioning
from tests.training.test_loop import run


def params(rng, unet, shape, cond=None):
    """Draws every parameter of a UNet from N(0, 0.1^2), zeros included."""
    z_t, t = jnp.zeros((1, *shape)), jnp.zeros(1, jnp.int32)
    init = lambda: unet.init(jax.random.key(0), z_t, t, cond or Conditioning())  # noqa: E731
    shapes = jax.eval_shape(init)["params"]
    draw = lambda x: 0.1 * rng.standard_normal(x.shape).astype(np.float32)  # noqa: E731
    return {"unet": jax.tree.map(draw, shapes)}


def test_an_inpainting_model_first_predicts_what_the_unconditional_one_did():
    """Identity: the zeros of the mask and the masked latent's channels read nothing."""
    rng = np.random.default_rng(0)
    fields = dict(channels=32, channel_mult=(1,), out_channels=4, num_res_blocks=1)
    old_net = UNet(**fields, num_heads=1)
    new_net = UNet(**fields, num_heads=1, in_channels=9)
    concat = jnp.asarray(rng.standard_normal((2, 4, 4, 5)), jnp.float32)
    cond = Conditioning(concat=concat)
    old = params(rng, old_net, (4, 4, 4))
    drawn = params(rng, new_net, (4, 4, 4), Conditioning(concat=concat[:1]))
    new, taken = take_params(drawn, old, "a model")
    assert taken.widened == ["unet/conv_in/kernel [3, 3, 4, 32] -> [3, 3, 9, 32]"]
    assert not taken.made_new and not taken.left
    assert taken.share == pytest.approx(1 - 9 * 5 * 32 / count(new))
    z_t = jnp.asarray(rng.standard_normal((2, 4, 4, 4)), jnp.float32)
    t = jnp.array([3, 500])
    # 1e-6: the sum of a convolution with more (zero) terms is taken in another order.
    np.testing.assert_allclose(
        new_net.apply({"params": new["unet"]}, z_t, t, cond),
        old_net.apply({"params": old["unet"]}, z_t, t),
        atol=1e-6,
    )


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


def test_every_array_is_reported_once():
    """Another condition and another f: a level and a text encoder come, one goes."""
    old = {
        "unet": {
            "conv_in": {"kernel": np.ones((3, 3, 4, 8))},
            "down_0": {"kernel": np.full((8, 8), 2.0)},
            "down_1": {"kernel": np.ones((8, 8))},
            "attn": {"k": {"kernel": np.ones((16, 8))}},
        },
        "conditioner": {"embedding": np.ones((10, 16))},
    }
    new = {
        "unet": {
            "conv_in": {
                "kernel": np.zeros((3, 3, 3, 8), np.float32)
            },  # fewer: made new
            "down_0": {"kernel": np.zeros((8, 8), np.float32)},
            "down_2": {"kernel": np.zeros((8, 8), np.float32)},
            "attn": {"k": {"kernel": np.zeros((24, 8), np.float32)}},  # wider context
        }
    }
    result, taken = take_params(new, old, "a model")
    assert taken.taken == ["unet/down_0/kernel"] and taken.widened == []
    assert taken.made_new == [
        "unet/attn/k/kernel [16, 8] -> [24, 8]",
        "unet/conv_in/kernel [3, 3, 4, 8] -> [3, 3, 3, 8]",
        "unet/down_2/kernel [8, 8]: not there",
    ]
    assert taken.left == [
        "conditioner/embedding [10, 16]",
        "unet/attn/k/kernel [16, 8]",
        "unet/conv_in/kernel [3, 3, 4, 8]",
        "unet/down_1/kernel [8, 8]",
    ]
    kernel = result["unet"]["down_0"]["kernel"]
    assert kernel.dtype == np.float32 and (kernel == 2).all()
    for part in ("1 arrays taken", "0 widened", "3 initialized", "4 left"):
        assert part in taken.summary()


def test_a_model_of_which_nothing_fits_is_refused():
    old = {"autoencoder": {"conv_in": {"kernel": np.ones((3, 3, 3, 8))}}}
    new = {"unet": {"conv_in": {"kernel": np.ones((3, 3, 4, 8))}}}
    with pytest.raises(
        ValueError, match=r"no parameter of \./a fits .*train.init_from"
    ):
        take_params(new, old, "./a")


def test_a_run_starts_from_another_runs_average_and_resumes_from_its_own(
    tmp_path, capsys
):
    defines_model = {"unet.f": True}.get
    first, second = tmp_path / "first", tmp_path / "second"
    run(first, num_steps=3, config={"unet": {"f": 4}})
    averaged = load_params(first)
    # The new model has no conditioner of the old one's shape.
    averaged["conditioner"] = {"bias": np.ones(5, np.float32)}
    save_params(str(tmp_path / "given"), averaged, {"unet": {"f": 4}})

    config = {"unet": {"f": 8}}
    options = dict(init_from=str(tmp_path / "given"), max_ema_decay=1.0)
    options |= dict(config=config, defines_model=defines_model)
    state = run(second, num_steps=1, **options)
    for name in ("in", "out"):
        kernel = averaged["unet"]["mlp"][name]["kernel"]
        # One step of Adam moves each number by at most the rate, 0.01.
        np.testing.assert_allclose(
            state.params["unet"]["mlp"][name]["kernel"], kernel, atol=0.0101
        )
    assert np.abs(state.params["conditioner"]["bias"]).max() <= 0.0101
    report = json.loads((second / "initial.json").read_text())
    assert report["taken"] == ["unet/mlp/in/kernel", "unet/mlp/out/kernel"]
    assert report["made_new"] == ["conditioner/bias [5] -> [8]"]
    assert report["settings"] == ["  unet.f: 4 -> 8"]
    out = capsys.readouterr().out
    assert "2 arrays taken" in out and "unet.f: 4 -> 8" in out

    before = (second / "initial.json").stat().st_mtime_ns
    assert int(run(second, num_steps=2, **options).step) == 2  # its own checkpoint
    assert (second / "initial.json").stat().st_mtime_ns == before
