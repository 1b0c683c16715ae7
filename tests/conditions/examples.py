# SPDX-License-Identifier: Apache-2.0
"""A tiny condition of every kind, with a batch that it reads."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from ldm_jax.conditions.registry import make_condition
from ldm_jax.models.autoencoder import Autoencoder

FIRST_STAGE = dict(
    channels=32,
    channel_mult=(1, 1),
    num_res_blocks=1,
    latent_channels=3,
    bottleneck="vq",
    num_codes=8,
    mid_attention=False,
)
TEXT = dict(width=8, depth=1, length=6)
KINDS = {
    "none": {},
    "class": dict(num_classes=4, width=8),
    "text": TEXT,
    "layout": dict(num_classes=5, width=8, depth=1, max_objects=2),
    "semantic": dict(num_classes=3, f=2, out_channels=2),
    "superres": {},
    "retrieval": dict(width=8, length=3),
    "inpaint": dict(autoencoder=FIRST_STAGE, latent_scale=0.5),
    "hybrid": dict(
        parts={"text": dict(kind="text", **TEXT), "small": dict(kind="superres")}
    ),
}
B = 3


def batch():
    rng = np.random.default_rng(0)
    fields = {
        "label": rng.integers(0, 4, B),
        "tokens": rng.integers(0, 100, (B, 6)),
        "label_map": rng.integers(0, 3, (B, 8, 8)),
    }
    fields = {name: jnp.asarray(x, jnp.int32) for name, x in fields.items()}
    for name, size, channels in (("image", 8, 3), ("low_res", 4, 3)):
        values = rng.uniform(-1, 1, (B, size, size, channels))
        fields[name] = jnp.asarray(values, jnp.float32)
    fields["embeddings"] = jnp.asarray(rng.normal(size=(B, 3, 8)), jnp.float32)
    fields["mask"] = jnp.asarray(rng.integers(0, 2, (B, 8, 8, 1)), jnp.float32)
    return fields


def batch_of(kind):
    y = batch()
    if kind == "layout":
        y["tokens"] = jnp.tile(y["tokens"], (1, 2))[:, :8]
    return y


@functools.cache
def frozen():
    """Parameters that conditions read and never train."""
    first_stage = Autoencoder(**FIRST_STAGE)
    image = jnp.zeros((1, 8, 8, 3))
    return {
        "autoencoder": jax.jit(first_stage.init)(jax.random.key(0), image)["params"]
    }


def make(kind):
    """Returns (condition, its parameters, a batch)."""
    condition = make_condition(kind, **KINDS[kind])
    y = batch_of(kind)
    # Compiled whole: op by op, the CPU compiles each op again for each shape.
    return condition, jax.jit(condition.init)(jax.random.key(0), y), y


def save(path, array, mode=None):
    """Writes a picture and returns its path."""
    Image.fromarray(np.asarray(array, np.uint8), mode).save(path)
    return path
