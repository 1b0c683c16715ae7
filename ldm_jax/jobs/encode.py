# SPDX-License-Identifier: Apache-2.0
"""Runs images through a trained first stage: into latents, or there and back."""

import contextlib
import logging

import jax
from tqdm import tqdm

from ldm_jax import experiment
from ldm_jax.data import latents
from ldm_jax.data.images import open_images
from ldm_jax.data.loader import iterate_once
from ldm_jax.jobs.first_stage import reconstruct_all, still_transform
from ldm_jax.metrics.reconstruction import psnr
from ldm_jax.tasks import pictures
from ldm_jax.training import sharding
from ldm_jax.training.checkpoint import save_params
from ldm_jax.training.digest import fingerprint
from ldm_jax.training.hosts import is_main_process

log = logging.getLogger(__name__)


def write_latents(
    model_dir: str,
    out: str,
    images: str | None = None,
    split: str | None = None,
    batch_size: int = 64,
    records_per_shard: int = 4096,
    mirror: bool = False,
    num_crops: int = 1,
    config=None,
):
    """Encodes an image set into latents, and puts the first stage beside them.

    Args:
      model_dir: directory of a first stage.
      out: directory of the latents.
      images, split: of `open_images`; None takes what the first stage was trained on.
      batch_size: images per call of the encoder.
      records_per_shard: what one file holds; a killed run loses its unfinished files.
      mirror: whether the mirror image's latent is stored too.
      num_crops: latents of each image, of random windows and captions where it has
        several.
      config: of a diffusion model that shall learn from the latents: its sections
        `images` and `transform` replace the first stage's, its condition's fields are
        carried along, and mirror images are stored if it mirrors.

    Returns:
      The statistics of the set.

    Raises:
      ValueError: no first stage, no such images, or another set in `out`.
    """
    model, params = experiment.load(model_dir)
    keep_image = False
    if config is None:
        source, transform = _images_of(experiment.read_config(model_dir), images, split)
    else:
        source, transform = _images_for(config, images, split)
        keep_image = (
            "image" in experiment.make_latent_diffusion(config).conditioner.fields
        )
        mirror = mirror or config.latents.flip
    mesh = sharding.make_mesh(devices=jax.local_devices())
    on_mesh = sharding.batch_sharding(mesh)
    placed = sharding.place(params, mesh)
    encode = jax.jit(model.moments)
    job = latents.LatentJob(
        latent_channels=model.autoencoder.embed_channels,
        autoencoder=fingerprint(params),
        batch_size=batch_size,
        records_per_shard=records_per_shard,
        mirror=mirror,
        keep_image=keep_image,
        num_crops=num_crops,
    )
    with _progress_bar("latents", len(source)) as bar:
        stats = latents.write_latents(
            lambda image: encode(placed, jax.device_put(image, on_mesh)),
            source,
            transform,
            out,
            job,
            bar,
        )
    settings = experiment.read_config(model_dir).to_dict()
    save_params(f"{out}/autoencoder", params, settings)
    log.info(
        "%d latents of %s, scale %.4f +- %.4f, in %s",
        stats.count,
        "x".join(map(str, stats.latent_shape)),
        stats.scale,
        stats.scale_error,
        out,
    )
    return stats


@contextlib.contextmanager
def _progress_bar(label: str, total: int):
    """Yields (done, total) -> None, shown as a bar with rate and time left."""
    with tqdm(desc=label, total=total, disable=not is_main_process()) as bar:

        def show(done, total):
            bar.total = total
            bar.update(done - bar.n)

        yield show


def reconstruct(
    model_dir: str,
    out: str,
    images: str | None = None,
    split: str | None = None,
    num: int = 16,
    batch_size: int = 64,
) -> float:
    """Encodes and decodes an image set; writes some of it as pairs.

    Args:
      model_dir: directory of a first stage.
      out: PNG file; pairs of image and reconstruction, side by side.
      images, split: as for `write_latents`.
      num: pairs to show; the whole set is measured.
      batch_size: images at once.

    Returns:
      The mean PSNR in dB.
    """
    model, params = experiment.load(model_dir)
    source, transform = _images_of(experiment.read_config(model_dir), images, split)
    on_mesh = sharding.batch_sharding(sharding.make_mesh())
    rows = iterate_once(source, transform, batch_size, on_mesh)
    figures, sheet = reconstruct_all(model, params, rows, num, {"psnr": psnr})
    quality = figures["psnr"]
    if is_main_process():
        pictures.save_png(out, sheet, dict(model=model_dir, psnr=f"{quality:.2f}"))
    return quality


def _images_of(config, images, split):
    """Opens the images of a first stage's config, or others through its transform."""
    spec = dict(config.images)
    if images is not None:
        spec.update(dataset=images)
    if split:
        spec.update(split=split)
    return open_images(**spec), still_transform(config.transform)


def _images_for(config, images, split):
    """Opens the images that a diffusion config names, to be encoded for it."""
    experiment.check_config(config)
    spec = dict(config.get("images", {}))
    if images is not None:
        spec.update(dataset=images)
    if split:
        spec.update(split=split)
    if not spec.get("dataset"):
        raise ValueError(
            "config.images.dataset must name the images to encode: got none; give "
            "--images FOLDER."
        )
    # Mirrored both ways, and a new hole in every step: neither is decided here.
    return open_images(**spec), experiment.make_transform(config, flip=False, mask=None)
