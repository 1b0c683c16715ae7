# SPDX-License-Identifier: Apache-2.0
"""Encodes an image set into a data set of latents."""

import contextlib
import dataclasses
import logging
import os
import pathlib

import jax
import numpy as np
from tqdm import tqdm

from ldm_jax.commands.reconstruct import images_of
from ldm_jax.data.images.image_sets import open_images
from ldm_jax.data.latents import sets, write
from ldm_jax.data.transforms.buckets import (
    Subset,
    assign,
    bucket_name,
    image_sizes,
    parse_buckets,
)
from ldm_jax.data.transforms.image_transform import ImageTransform
from ldm_jax.experiment import model_directory, models, schema
from ldm_jax.experiment.model_directory import first_stage_of
from ldm_jax.files.writing import write_json
from ldm_jax.parallel import sharding
from ldm_jax.parallel.hosts import agreed, is_main_process
from ldm_jax.parallel.outputs import output_directory, reserves
from ldm_jax.training.checkpoints.checkpointer import save_params
from ldm_jax.training.checkpoints.digest import fingerprint

log = logging.getLogger(__name__)

# Says, in a directory of latents, how the images were opened, and the seed.
IMAGES_FILE = "images.json"


@reserves(output_directory)
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
    buckets: str = "",
    dtype: str = "float16",
    manual_dir: str | None = None,
):
    """Encodes an image set into latents, and puts the first stage beside them.

    Args:
      model_dir: directory of a first stage, or of a diffusion model that has one.
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
      buckets: image sizes, "256x256,192x320"; each image goes to that of its aspect
        ratio, and each size becomes a set in a sub-folder of `out`.
      dtype: of the stored moments, see `LatentJob`.
      manual_dir: of `open_images`; None is the config's.

    Returns:
      The statistics of the set, or of all buckets together.

    Raises:
      ValueError: no first stage, no such images, or another set in `out`.
    """
    model_dir, stage_config = first_stage_of(model_dir)
    model, params = model_directory.load(model_dir)
    keep_image = False
    if config is None:
        spec, transform = images_of(stage_config, images, split)
    else:
        spec, transform = _images_for(config, images, split)
        keep_image = "image" in models.make_latent_diffusion(config).conditioner.fields
        mirror = mirror or config.latents.flip
    if manual_dir:
        spec.update(manual_dir=manual_dir)
    mesh = sharding.make_mesh(devices=jax.local_devices())
    on_mesh = sharding.batch_sharding(mesh)
    placed = sharding.place(params, mesh)
    encode = jax.jit(model.moments)
    job = write.LatentJob(
        latent_channels=model.autoencoder.embed_channels,
        autoencoder=fingerprint(params),
        batch_size=batch_size,
        records_per_shard=records_per_shard,
        dtype=dtype,
        mirror=mirror,
        keep_image=keep_image,
        num_crops=num_crops,
    )
    _refuse_other_kind(out, buckets)
    source = open_images(**spec)
    parts = by_bucket(source, buckets) if buckets else {"": source}
    for name, part in parts.items():
        with _progress_bar(f"latents {name}".strip(), len(part)) as bar:
            write.write_latents(
                lambda image: encode(placed, jax.device_put(image, on_mesh)),
                part,
                with_size(transform, name) if name else transform,
                f"{out}/{name}" if name else out,
                job,
                bar,
                num_threads=os.cpu_count() or 1,
            )
    save_params(f"{out}/autoencoder", params, stage_config.to_dict())
    if is_main_process():
        facts = {"images": spec, "buckets": buckets, "seed": job.seed}
        write_json(pathlib.Path(out, IMAGES_FILE), facts)
        if buckets:
            sets.write_bucket_names(out, list(parts))
    agreed(True)  # nobody goes on before the files are there
    _, stats, shapes = sets.open_latent_sets(out)
    log.info(
        "%d latents of %s, scale %.4f +- %.4f, in %s",
        stats.count,
        ", ".join("x".join(map(str, shape)) for shape in shapes),
        stats.scale,
        stats.scale_error,
        out,
    )
    return stats


def _refuse_other_kind(out: str, buckets: str) -> None:
    """Raises where a set of the other kind, of one size or of several, lies."""
    other = "dataset_info.json" if buckets else sets.BUCKETS_FILE
    if pathlib.Path(out, other).exists():
        kind = "one size" if buckets else "buckets"
        raise ValueError(
            f"{out} holds latents of {kind}: delete them, or write elsewhere."
        )


def by_bucket(source, buckets: str) -> dict[str, Subset]:
    """Divides images by aspect ratio: name of the size -> images; no empty ones."""
    sizes = parse_buckets(buckets)
    nearest = assign(image_sizes(source), sizes)
    found = {
        bucket_name(size): np.flatnonzero(nearest == number)
        for number, size in enumerate(sizes)
    }
    return {name: Subset(source, rows) for name, rows in found.items() if len(rows)}


@contextlib.contextmanager
def _progress_bar(label: str, total: int):
    """Yields (done, total) -> None, shown as a bar with rate and time left."""
    with tqdm(desc=label, total=total, disable=not is_main_process()) as bar:

        def show(done, total):
            bar.total = total
            bar.update(done - bar.n)

        yield show


def with_size(transform: ImageTransform, bucket: str) -> ImageTransform:
    """Returns the transform to the size that a bucket's name says."""
    (size,) = parse_buckets(bucket)
    return dataclasses.replace(transform, image_size=size)


def _images_for(config, images, split):
    """Returns how to open the images that a diffusion config names, and how to cut."""
    schema.check_config(config)
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
    return spec, models.make_transform(config, flip=False, mask=None)
