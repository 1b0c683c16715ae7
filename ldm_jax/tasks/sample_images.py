# SPDX-License-Identifier: Apache-2.0
"""Samples images batch by batch, each from its own seed and condition."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, UInt8

from ldm_jax.diffusion.samplers.base import seed_keys
from ldm_jax.files.formats import png
from ldm_jax.files.paths import printable
from ldm_jax.parallel import sharding
from ldm_jax.parallel.free_memory import free_bytes
from ldm_jax.parallel.hosts import fetch, gathered
from ldm_jax.tasks import generate
from ldm_jax.tasks.guides import Guide
from ldm_jax.tasks.model import LatentDiffusion
from ldm_jax.types import Array, PyTree

# `fitting_batch_size`: images for each device in the batch that is compiled to count
# its memory; the most that it chooses; the share of the free memory that it fills.
PROBE, MOST, SHARE = 4, 64, 0.8


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
      seeds: image i depends only on its seed and condition.
      latent_shape: (h, w, c).
      sampling: sampler, steps and guidance.
      images: images to start from or to keep, [N, ...] each, see `make_generate`.
      batch_size: images at once; rounded up to a multiple of the devices.
      num_previews, guides: see `make_generate`.

    Yields:
      Batches of images (with K + 1 previews first); the last batch may be shorter.

    Raises:
      ValueError: the samples contain NaN or infinity; the message says whether the
        parameters do too.
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
            yield _finish(params, *running)
        running = started
    if running is not None:
        yield _finish(params, *running)


def fitting_batch_size(
    model: LatentDiffusion,
    params: PyTree,
    y: dict[str, np.ndarray],
    num: int,
    latent_shape: tuple[int, int, int],
    sampling: generate.Sampling,
    images: dict[str, np.ndarray] | None = None,
    guides: tuple[Guide, ...] = (),
) -> int:
    """Chooses how many images are sampled at once, by the memory of the devices.

    Compiles the sampler for a small batch, and assumes that the memory of the program,
    without its arguments, is proportional to the batch.

    Args:
      model, params, y, latent_shape, sampling, images, guides: of `sample_images`.
      num: number of images to sample.

    Returns:
      The number of images in a batch, a power of two for each device: at most MOST for
      each, and no more than `num` needs. If the platform does not report its free
      memory, PROBE for each device.

    Raises:
      jax.errors.JaxRuntimeError: not even the small batch fits.
    """
    mesh = sharding.make_mesh()
    if num == 0:  # nothing to compile for
        return mesh.size
    on_mesh = sharding.batch_sharding(mesh)
    each = -(-num // mesh.size)
    upper = min(MOST, 1 << (each - 1).bit_length())  # a power of two
    probe = min(PROBE, upper)
    batch = probe * mesh.size

    def rows(x):
        return jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype, sharding=on_mesh)

    part, given = ({k: rows(x) for k, x in d.items()} for d in (y, images or {}))
    placed = sharding.place(params, mesh)
    keys = rows(jax.eval_shape(lambda: seed_keys([0])))
    draw = generate.make_generate(model, latent_shape, sampling, 0, guides)
    with jax.set_mesh(mesh):
        program = draw.lower(placed, part, keys, given).compile()
    needs, free = program.memory_analysis(), free_bytes()
    if needs is None or free is None:
        return batch
    image_bytes = (needs.temp_size_in_bytes + needs.output_size_in_bytes) / probe
    most = max(int(SHARE * free / max(image_bytes, 1)), probe)
    fits = min(upper, 1 << (most.bit_length() - 1))
    # Every process takes the same: the one with the least memory decides.
    return int(min(gathered(fits))) * mesh.size


def _finish(params: PyTree, drawn: Array, valid: int) -> np.ndarray:
    """Waits for a batch of images; drops the rows that padded it."""
    images = fetch(drawn)
    if not np.isfinite(images).all():  # only now: reading all parameters takes time
        _check_finite(params)
    return png.to_uint8(images)[..., :valid, :, :, :]


def _check_finite(params: PyTree) -> None:
    """Raises ValueError for parameters that hold NaN or infinity, by name."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    odd = [
        sharding.path_name(path)
        for path, x in leaves
        if jnp.issubdtype(x.dtype, jnp.floating) and not jnp.isfinite(x).all()
    ]
    if odd:
        raise ValueError(
            f"parameters must be finite: {len(odd)} of {len(leaves)} arrays hold NaN "
            f"or infinity, first {printable(odd[0])}; take another checkpoint "
            "(--step), or get the weights again."
        )
