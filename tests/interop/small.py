# SPDX-License-Identifier: Apache-2.0
"""Models small enough to be carried about in a second, with random parameters."""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ldm_jax.experiment.models import make_latent_diffusion
from ldm_jax.interop.convert import export_model
from tests.interop.compvis.test_state_dict import zeros_like_rows
from tests.interop.states import golden_weights

BLOCKS = dict(channels=32, channel_mult=(1,), num_res_blocks=1, num_heads=1)
PLAIN = dict(BLOCKS, attention_levels=(0,))
CROSS = dict(PLAIN, transformer_depth=1, context_dim=8)
FIRST_STAGE = dict(
    channels=32, channel_mult=(1, 1), num_res_blocks=1, latent_channels=2
)
VQ = dict(FIRST_STAGE, bottleneck="vq", num_codes=8)


def unet(blocks, c, more=0):
    """A UNet of c channels, and more that are joined to them."""
    return {**blocks, "in_channels": c + more, "out_channels": c}


def diffusion(condition, blocks=PLAIN, c=2, more=0, **sections):
    """The spec of a diffusion model of 8x8 latents, f = 2."""
    return {
        "task": "latent_diffusion",
        "autoencoder": VQ,
        "latent_scale": 0.5,
        "unet": unet(blocks, c, more),
        "condition": condition,
        "schedule": dict(kind="linear", num_timesteps=1000, start=1e-4, end=0.02),
        "prediction": "eps",
        "objective": {},
        **sections,
    }


CLASSES = diffusion(dict(kind="class", num_classes=10, width=8), CROSS)
TEXT = diffusion(
    dict(kind="text", tokenizer="bert", width=8, depth=1, vocab_size=30522, length=77),
    CROSS,
)
PIXELS = diffusion(
    dict(kind="none"),
    c=3,
    autoencoder={"bottleneck": "pixels"},
    latent_scale=1.0,
    sampling=dict(clip=1.0, num_steps=3),
)


def drawn(spec):
    """Random parameters of a spec, by name and shape."""

    def draw(path, leaf):
        name = jax.tree_util.keystr(path)
        return golden_weights.tensor(name, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, zeros_like_rows(spec))


def checkpoint(folder, spec):
    """Writes a random model as model.ckpt and model.yaml; returns the .ckpt's path."""
    folder.mkdir(exist_ok=True)
    export_model(folder / "model.ckpt", "compvis", spec, drawn(spec))
    return str(folder / "model.ckpt")


def pipeline(folder, spec, image_size=8):
    """Writes a random model as a diffusers folder; returns its parameters."""
    params = drawn(spec)
    export_model(folder, "diffusers", spec, params, image_size=image_size)
    return params


def model_of(spec):
    """The model that a spec describes."""
    latents = dict(directory="", image_size=8, scale=spec["latent_scale"])
    return make_latent_diffusion(ConfigDict({**spec, "latents": latents}))


def draw(model, inputs):
    """Random parameters of a model, each a function of its name and shape."""
    height, width, c = model.autoencoder.latent_shape((8, 8, 3))
    image = jnp.zeros((2, 8, 8, 3))
    key = jax.random.key(0)
    trained, frozen = model.conditioner.init, model.conditioner.init_frozen
    trees = {"conditioner": trained(key, inputs) or frozen(key, inputs)}
    if model.autoencoder.bottleneck != "pixels":
        trees["autoencoder"] = model.autoencoder.init(key, image)["params"]
    first = {"autoencoder": trees.get("autoencoder", {})}
    encode = model.encode_condition
    cond = jax.eval_shape(lambda p: encode(p, inputs), {**trees, **first})
    z_t = jnp.zeros((2, height, width, c))
    shapes = jax.eval_shape(model.unet.init, key, z_t, jnp.zeros(2, int), cond)
    trees["unet"] = shapes["params"]

    return {**first, **random_tree(trees)}


def random_tree(shapes):
    """Random arrays of the shapes of a tree, each a function of its name."""

    def leaf(path, x):
        name = jax.tree_util.keystr(path)
        return golden_weights.tensor(name, x.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)
