# SPDX-License-Identifier: Apache-2.0
"""Encodes and decodes images, and measures how well they are reconstructed."""

import functools

from ldm_jax.data.images.image_sets import open_images
from ldm_jax.data.loader import iterate_once
from ldm_jax.experiment import model_directory
from ldm_jax.experiment.encoding import images_of
from ldm_jax.experiment.stored_config import first_stage_of
from ldm_jax.files.formats import png
from ldm_jax.metrics.reconstruct import reconstruct_all
from ldm_jax.metrics.reconstruction import psnr
from ldm_jax.parallel import sharding
from ldm_jax.parallel.hosts import is_main_process
from ldm_jax.parallel.outputs import output_file, reserves


@reserves(functools.partial(output_file, suffix=".png", mark=b"ldm_jax:psnr"))
def write_reconstructions(
    model_dir: str,
    out: str,
    images: str | None = None,
    split: str | None = None,
    num: int = 16,
    batch_size: int = 64,
    image_size: tuple[int, int] | None = None,
) -> float:
    """Encodes and decodes an image set; writes some of it as pairs.

    Args:
      model_dir: directory of a first stage, or of a diffusion model that has one.
      out: PNG file; pairs of image and reconstruction, side by side.
      images, split: as for `encode_image_set`, but that the images which the first
        stage did not learn from are taken where it has some.
      num: pairs to show; the whole set is measured.
      batch_size: images at once.
      image_size: (height, width), multiples of f; None is that of training.

    Returns:
      The mean PSNR in dB.

    Raises:
      ValueError: no first stage, no such images, or f does not divide the size.
    """
    model_dir, config = first_stage_of(model_dir)
    model, params = model_directory.load(model_dir, task="first_stage")
    spec, transform = images_of(config, images, split, image_size, held_out=True)
    model.autoencoder.latent_shape((*transform.size, model.autoencoder.in_channels))
    source = open_images(**spec)
    on_mesh = sharding.batch_sharding(sharding.make_mesh())
    rows = iterate_once(source, transform, batch_size, on_mesh)
    figures, sheet = reconstruct_all(
        model, params, rows, num, {"psnr": psnr}, len(source)
    )
    quality = figures["psnr"]
    if is_main_process():
        png.save_png(out, sheet, dict(model=model_dir, psnr=f"{quality:.2f}"))
    return quality
