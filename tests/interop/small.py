# SPDX-License-Identifier: Apache-2.0
"""Models small enough to be carried about in a second, with random parameters."""

import jax
import numpy as np

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
