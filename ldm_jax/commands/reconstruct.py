# SPDX-License-Identifier: Apache-2.0
"""Encodes and decodes images, and measures how well they are reconstructed."""

from typing import Any

from ml_collections import ConfigDict

from ldm_jax.data.images.image_sets import open_images
from ldm_jax.data.loader import iterate_once
from ldm_jax.data.transforms.image_transform import ImageTransform
from ldm_jax.experiment import model_directory
from ldm_jax.experiment.model_directory import first_stage_of
from ldm_jax.experiment.models import training_images
from ldm_jax.files import png
from ldm_jax.metrics.reconstruct import reconstruct_all
from ldm_jax.metrics.reconstruction import psnr
from ldm_jax.parallel import sharding
from ldm_jax.parallel.hosts import is_main_process
from ldm_jax.parallel.outputs import output_file, reserves


@reserves(output_file)
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
    model, params = model_directory.load(model_dir)
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


def images_of(
    config: ConfigDict,
    images: str | None,
    split: str | None,
    size: tuple[int, int] | None = None,
    *,
    held_out: bool = False,
) -> tuple[dict[str, Any], ImageTransform]:
    """Chooses the images that a first stage encodes.

    Args:
      config: of the first stage.
      images, split: of `open_images`; None is the set that it was trained on.
      size: (height, width) of the transform; None is that of training.
      held_out: of the set that it was trained on, take the images that were held out.

    Returns:
      Arguments of `open_images`, and the transform.

    Raises:
      ValueError: the model was imported and `images` is None.
    """
    held_out = held_out and images is None
    spec, transform = training_images(config, size, held_out=held_out)
    spec |= {"dataset": images} if images is not None else {}
    spec |= {"split": split} if split else {}
    if not spec.get("dataset"):
        raise ValueError(
            "an imported first stage has no training images: give --images FOLDER."
        )
    return spec, transform
