# SPDX-License-Identifier: Apache-2.0
"""DDIM, PLMS and the loss of the original, on its own narrowed networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion import process, weighting
from ldm_jax.diffusion.guidance import classifier_free
from ldm_jax.diffusion.samplers import make_sampler
from ldm_jax.diffusion.samplers.base import run_sampler
from ldm_jax.diffusion.samplers.grid import make_timesteps
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.models.conditioners import TokenTransformer
from ldm_jax.models.unet import UNet
from ldm_jax.types import Conditioning
from tests.golden import denoiser as golden

# The original's meta: end of the schedule, distance, guidance scale of the samplers.
MODELS = {
    "celeba256": (0.0195, "l2", 1.0),
    "cin256": (0.0195, "l2", 3.0),
    "text2img256": (0.0195, "l2", 3.0),
    "lsun_churches256": (0.0155, "l1", 1.0),
}


# Each compiles three functions of its UNet: two models by default, all on demand.
@pytest.fixture(
    scope="module",
    params=[
        "celeba256",
        "cin256",
        pytest.param("text2img256", marks=pytest.mark.slow),
        pytest.param("lsun_churches256", marks=pytest.mark.slow),
    ],
)
def model(request):
    """(name, arrays, predict(z_t, t, cond) compiled, cond, null)."""
    arrays, record = golden.load(f"tiny-{request.param}")
    unet = make_unet(record["meta"]["unet_config"]["params"])
    cond = Conditioning(context=arrays.get("context"))
    shapes = jax.eval_shape(
        unet.init, jax.random.key(0), arrays["x_t"], arrays["t"], cond
    )["params"]
    params = golden.fill(
        shapes,
        lambda names, keys: golden.unet_weight(names, keys, unet),
        record["keys"],
    )
    predict = jax.jit(lambda z_t, t, cond: unet.apply({"params": params}, z_t, t, cond))
    return request.param, arrays, predict, cond, make_null(arrays, record)


def make_unet(original):
    mult = tuple(original["channel_mult"])
    factors = original["attention_resolutions"]
    transformer = original.get("use_spatial_transformer", False)
    return UNet(
        channels=original["model_channels"],
        channel_mult=mult,
        out_channels=original["out_channels"],
        num_res_blocks=original["num_res_blocks"],
        attention_levels=tuple(n for n in range(len(mult)) if 2**n in factors),
        num_heads=original.get("num_heads"),
        head_channels=original.get("num_head_channels"),
        transformer_depth=int(transformer),
        context_dim=original.get("context_dim"),
        scale_shift_norm=original.get("use_scale_shift_norm", False),
        resblock_updown=original.get("resblock_updown", False),
    )


def make_null(arrays, record):
    """Encodes the golden unconditional input with the golden conditioner."""
    keys = record["keys"]
    if "uncond_class_label" in arrays:
        table = golden.tensor("cond_stage_model.embedding.weight", keys)
        return Conditioning(context=table[arrays["uncond_class_label"]][:, None])
    if "uncond_tokens" not in arrays:
        return None
    vocab_size, width = keys["cond_stage_model.transformer.token_emb.weight"]
    depth = sum(".to_q.weight" in k and k.startswith("cond_stage_model") for k in keys)
    encoder = TokenTransformer(vocab_size=vocab_size, width=width, depth=depth)
    tokens = jnp.asarray(arrays["uncond_tokens"])
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), tokens)["params"]
    params = golden.fill(shapes, golden.transformer_weight, keys)
    return Conditioning(context=encoder.apply({"params": params}, tokens))


def relative_error(got, expected):
    return np.linalg.norm(got - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("name", ["ddim", "plms"])
def test_eight_steps_end_where_the_originals_do(model, name):
    """Golden: ddim8, plms8, guided by 3 where the model has a condition."""
    model_name, arrays, predict, cond, null = model
    end, _, scale = MODELS[model_name]

    @jax.jit
    def run(schedule, z_T):
        guided = classifier_free(predict, cond, null, scale)
        denoiser = process.x0_denoiser(schedule, guided)
        sampler = make_sampler(name, schedule)
        return run_sampler(sampler, denoiser, z_T, make_timesteps(8), jax.random.key(0))

    z_0 = run(make_schedule(end=end), arrays["x_T"])
    # Float32 through eight evaluations of a random network, whose latents grow to 30.
    assert relative_error(z_0, arrays[f"{name}8"]) < 1e-3


def test_the_loss_is_the_originals(model):
    """Golden: loss, loss_simple and loss_vlb of p_losses at the golden t and noise."""
    name, arrays, predict, cond, _ = model
    end, distance, _ = MODELS[name]
    schedule = make_schedule(end=end)
    z_0, t, eps = (jnp.asarray(arrays[name]) for name in ("x0", "t", "noise"))
    z_t = process.add_noise(schedule, z_0, t, eps)
    losses = weighting.distance(distance, predict(z_t, t, cond), eps)
    elbo = weighting.elbo_weights(schedule, "eps")
    loss, metrics = weighting.diffusion_loss(losses, t, elbo=elbo)
    np.testing.assert_allclose(loss, arrays["loss"], rtol=1e-4)
    np.testing.assert_allclose(metrics["loss_simple"], arrays["loss_simple"], rtol=1e-4)
    np.testing.assert_allclose(metrics["loss_vlb"], arrays["loss_vlb"], rtol=1e-4)
