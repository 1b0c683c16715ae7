# SPDX-License-Identifier: Apache-2.0
"""Samples images batch by batch, each from its own seed and condition."""

from collections.abc import Iterator

import jax
import numpy as np
from jaxtyping import Int, UInt8

from ldm_jax.diffusion.samplers.base import seed_keys
from ldm_jax.files.formats import png
from ldm_jax.parallel import sharding
from ldm_jax.parallel.hosts import fetch
from ldm_jax.tasks import generate
from ldm_jax.tasks.guides import Guide
from ldm_jax.tasks.model import LatentDiffusion
from ldm_jax.types import Array, PyTree


def sample_images(
    model: LatentDiffusion,
    params: PyTree,
    y: dict[str, np.ndarray],
    seeds: Int[np.ndarray, " N"],
    latent_shape: tuple[int, int, int],
    sampling: generate.Sampling,
    batch_size: int = 64,
    images: dict[str, np.ndarray] | None = None,
    num_previews: int = 0,
    guides: tuple[Guide, ...] = (),
) -> Iterator[UInt8[np.ndarray, "*previews B H W 3"]]:
    """Samples one image per row of a condition, batch by batch.

    The devices compute the next batch while the caller works with the last one.

    Args:
      model, params: from `ldm_jax.load`.
      y: the conditioner's fields, [N, ...] each.
      seeds: image i depends on its seed and condition alone.
      latent_shape: (h, w, c).
      sampling: sampler, steps and guidance.
      images: images to start from or to keep, [N, ...] each, see `make_generate`.
      batch_size: images at once; rounded up to a multiple of the devices.
      num_previews, guides: see `make_generate`.

    Yields:
      Batches of images (with K + 1 previews first); the last batch may be shorter.
    """
    mesh = sharding.make_mesh()
    on_mesh = sharding.batch_sharding(mesh)
    batch_size = -(-batch_size // mesh.size) * mesh.size
    draw = generate.make_generate(model, latent_shape, sampling, num_previews, guides)
    placed = sharding.place(params, mesh)
    running: tuple[Array, int] | None = None
    for low in range(0, len(seeds), batch_size):
        valid = min(batch_size, len(seeds) - low)
        # The last batch is filled up with its first row: one shape, one compilation.
        rows = low + np.where(np.arange(batch_size) < valid, np.arange(batch_size), 0)
        part, given = (
            {name: jax.device_put(x[rows], on_mesh) for name, x in fields.items()}
            for fields in (y, images or {})
        )
        keys = jax.device_put(seed_keys(seeds[rows]), on_mesh)
        with jax.set_mesh(mesh):  # see models.attention.attend_splash
            started = draw(placed, part, keys, given), valid
        if running is not None:
            yield _finish(*running)
        running = started
    if running is not None:
        yield _finish(*running)


def _finish(drawn: Array, valid: int) -> np.ndarray:
    """Waits for a batch of images; drops the rows that filled it up."""
    return png.to_uint8(fetch(drawn))[..., :valid, :, :, :]
