# SPDX-License-Identifier: Apache-2.0
"""Encodes an image set into a data set of latents."""

import contextlib
import dataclasses
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from ldm_jax.data.images.image_sets import local_folders
from ldm_jax.data.latents import sets, write
from ldm_jax.data.latents.statistics import LatentStats
from ldm_jax.data.loader import check_batch_size
from ldm_jax.data.order import RecordRng, Row
from ldm_jax.data.records import DamagedRecord, Source, read_whole
from ldm_jax.data.transforms.buckets import (
    Subset,
    assign,
    bucket_name,
    image_sizes,
    parse_buckets,
)
from ldm_jax.data.transforms.image_transform import ImageTransform
from ldm_jax.experiment import model_directory
from ldm_jax.experiment.config.resuming import may_change_in_copy
from ldm_jax.experiment.encoding import Encoding, open_encoding
from ldm_jax.experiment.retrieval.image_neighbours import NeighbourSource
from ldm_jax.experiment.stored_config import first_stage_of
from ldm_jax.files.outputs import check_outside
from ldm_jax.files.paths import resolve
from ldm_jax.files.writing import write_json
from ldm_jax.parallel import sharding
from ldm_jax.parallel.hosts import agreed, is_main_process
from ldm_jax.parallel.outputs import reserves, shared_directory
from ldm_jax.tasks.condition_transform import StoredTransform
from ldm_jax.tasks.model import FirstStage
from ldm_jax.training.checkpoints.digest import params_fingerprint
from ldm_jax.training.checkpoints.params import save_params
from ldm_jax.types import PyTree

log = logging.getLogger(__name__)

# File of a directory of latents: how the images were opened, and the seed.
IMAGES_FILE = "images.json"
# Seconds between two states of the progress bar in a log.
LOG_SECONDS = 30.0


@reserves(shared_directory)
def encode_image_set(
    model_dir: str,
    out: str,
    images: str | None = None,
    split: str | None = None,
    batch_size: int = 64,
    records_per_shard: int = 4096,
    mirror: bool = False,
    num_crops: int = 1,
    config: ConfigDict | None = None,
    buckets: str = "",
    dtype: str = "float16",
    manual_dir: str | None = None,
    neighbours: NeighbourSource | None = None,
) -> LatentStats:
    """Encodes an image set into latents, and stores the first stage with them.

    Args:
      model_dir: directory of a first stage, or of a diffusion model that has one.
      out: directory of the latents; may be a URL.
      images, split: of `open_images`; None is the set that the first stage was
        trained on.
      batch_size: images per call of the encoder.
      records_per_shard: records of one file; a killed run loses its unfinished files.
      mirror: whether the mirror image's latent is stored too.
      num_crops: latents of each image, of random windows and captions where it has
        several.
      config: of a diffusion model that will learn from the latents: its sections
        `images` and `transform` replace the first stage's, except a set that it does
        not name; its condition's fields are stored, and mirror images if it mirrors.
      buckets: image sizes, "256x256,192x320"; each image is encoded at the size that
        is nearest to its aspect ratio, and each size becomes a set in a sub-folder of
        `out`.
      dtype: of the stored moments, see `LatentJob`.
      manual_dir: of `open_images`; None is the config's.
      neighbours: database whose nearest rows are stored with each image, as the
        config's "retrieval" condition reads them.

    Returns:
      The statistics of the set, or of all buckets together.

    Raises:
      ValueError: there is no first stage, there are no such images, they lack what the
        config's condition is made of, or `out` contains another set.
    """
    mesh = sharding.make_mesh(devices=jax.local_devices())
    check_batch_size(batch_size, sharding.batch_sharding(mesh))
    model_dir, stage_config = first_stage_of(model_dir)
    model, params = model_directory.load(model_dir, task="first_stage")
    given = open_encoding(
        model_dir,
        stage_config,
        config,
        images,
        split,
        manual_dir,
        attach=lambda source: (
            source if neighbours is None else neighbours.attach(source, batch_size)
        ),
    )
    check_outside(out, local_folders(given.images["dataset"]))
    job = write.LatentJob(
        latent_channels=model.autoencoder.embed_channels,
        autoencoder=params_fingerprint(params),
        batch_size=batch_size,
        records_per_shard=records_per_shard,
        dtype=dtype,
        mirror=mirror or given.flip,
        keep_image="image" in given.condition.stored,
        mirrored=given.condition.mirrored,
        num_crops=num_crops,
        neighbours="" if neighbours is None else neighbours.description,
    )
    if neighbours is not None and "embeddings" not in given.condition.stored:
        raise ValueError(
            "neighbours are stored for a model that reads them: got the "
            f'"{given.condition.kind}" condition; give --config of an experiment with '
            'config.condition.kind="retrieval", or leave --database out.'
        )
    _refuse_other_kind(out, buckets)
    _check_condition(given, job.seed)
    parts = by_bucket(given.source, buckets) if buckets else {"": given.source}
    _encode(model, params, parts, given, out, job)
    settings = stage_config.to_dict()
    save_params(f"{out}/autoencoder", params, settings, may_change_in_copy)
    if is_main_process():
        origin = {"images": given.images, "buckets": buckets, "seed": job.seed}
        write_json(resolve(out) / IMAGES_FILE, origin)
        if buckets:
            sets.write_bucket_names(out, list(parts))
    agreed(True)  # until then other processes must not open the files
    return _open_and_report(out)


def _check_condition(given: Encoding, seed: int) -> None:
    """Checks on the first image that the images have the fields of the condition.

    Raises:
      ValueError: they lack a field: labels, captions, boxes.
    """
    with contextlib.suppress(DamagedRecord):  # counted when it is encoded
        rng = RecordRng(seed).at(Row(0, 0))
        given.condition.to_store(given.transform(given.source[0], rng))


def _encode(
    model: FirstStage,
    params: PyTree,
    parts: Mapping[str, Any],
    given: Encoding,
    out: str,
    job: write.LatentJob,
) -> None:
    """Encodes each part of the images into a set of latents, on all local devices."""
    mesh = sharding.make_mesh(devices=jax.local_devices())
    on_mesh = sharding.batch_sharding(mesh)
    placed = sharding.place(params, mesh)
    moments = jax.jit(model.moments)
    for name, part in parts.items():
        transform = with_size(given.transform, name) if name else given.transform
        with _progress_bar(f"latents {name}".strip(), len(part)) as bar:
            write.write_latents(
                lambda image: moments(placed, jax.device_put(image, on_mesh)),
                part,
                StoredTransform(transform, given.condition),
                f"{out}/{name}" if name else out,
                job,
                bar,
                num_threads=os.cpu_count() or 1,
            )


def _open_and_report(out: str) -> LatentStats:
    """Opens the finished latents, and logs their shapes, fields and scale."""
    latents, stats, shapes = sets.open_latent_sets(out)
    ((_, first),) = read_whole(latents, [0])
    log.info(
        "%d latents of %s with %s, scale %.4f +- %.4f, in %s",
        stats.count,
        ", ".join("x".join(map(str, shape)) for shape in shapes),
        ", ".join(sorted(first)),
        stats.scale,
        stats.scale_error,
        out,
    )
    return stats


def _refuse_other_kind(out: str, buckets: str) -> None:
    """Raises ValueError where `out` contains a set of one size, or of several."""
    other = "dataset_info.json" if buckets else sets.BUCKETS_FILE
    if (resolve(out) / other).exists():
        kind = "one size" if buckets else "buckets"
        raise ValueError(
            f"{out} contains latents of {kind}: delete them, or choose another --out."
        )


def by_bucket(source: Source, buckets: str) -> dict[str, Subset]:
    """Divides images by aspect ratio: name of the size -> images; no empty ones."""
    sizes = parse_buckets(buckets)
    nearest = assign(image_sizes(source), sizes)
    rows_of = {
        bucket_name(size): np.flatnonzero(nearest == number)
        for number, size in enumerate(sizes)
    }
    return {name: Subset(source, rows) for name, rows in rows_of.items() if len(rows)}


@contextlib.contextmanager
def _progress_bar(label: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """Yields (done, total) -> None, shown as a bar with rate and time left.

    In a log, where the bar is not drawn over, it is shown every LOG_SECONDS.
    """
    hidden, seconds = not is_main_process(), 0.1 if sys.stderr.isatty() else LOG_SECONDS
    with tqdm(desc=label, total=total, disable=hidden, mininterval=seconds) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def with_size(transform: ImageTransform, bucket: str) -> ImageTransform:
    """Returns the transform with the image size that a bucket is named after."""
    (size,) = parse_buckets(bucket)
    return dataclasses.replace(transform, image_size=size)
