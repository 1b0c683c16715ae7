# SPDX-License-Identifier: Apache-2.0
"""Encodes an image set into a TFDS set of latents, with any number of processes."""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from ldm_jax.data import shards
from ldm_jax.data.latents.encoder import DTYPES, Encode, LatentJob, ShardEncoder
from ldm_jax.data.latents.statistics import LatentStats, LatentSums
from ldm_jax.data.order import Row
from ldm_jax.data.reading import Read, Transform, in_threads, read_ahead, transformed
from ldm_jax.data.records import Source, fingerprint
from ldm_jax.files.paths import is_remote

NAME = "latents"
# A process that is done looks this often whether the others are, in seconds; on a
# store ten times less often, as each time costs a listing.
WAIT_EVERY = 1.0


def write_latents(
    encode: Encode,
    source: Source,
    transform: Transform,
    directory: str,
    job: LatentJob,
    progress: Callable[[int, int], None] = lambda done, total: None,
    process: tuple[int, int] | None = None,
    num_threads: int = 1,
) -> LatentStats:
    """Writes the latents of an image set; picks up where a killed run stopped.

    Every process encodes its own shards on its own devices; the one that finishes last
    makes the set readable, and all return when it is.

    Args:
      encode: image float32 [B, H, W, 3] in [-1, 1] -> moments [B, h, w, 2c] or
        [B, h, w, c]; B is always `job.batch_size`.
      source: the image set.
      transform: makes its records into "image" and other fields, which are carried
        along; needs a `description`.
      directory: of the set, a URL or on a file system that all processes see.
      job: what to write.
      progress: called once per batch with the records done and in all, of this process.
      process: (index, count); None asks JAX.
      num_threads: threads that read and transform; photographs want one per core.

    Returns:
      The statistics of the whole set.

    Raises:
      ValueError: `directory` holds latents of another job; moments that do not fit.
      DamagedRecord: more than `job.max_damaged` records are damaged.
    """
    index, count = process or (jax.process_index(), jax.process_count())
    if job.mirror and transform.description.get("flip"):
        raise ValueError(
            "the transform mirrors images at random, and both mirror images are "
            "stored: set flip=False in the transform, or mirror=False."
        )
    folder = shards.make_directory(directory)
    cuts = job.cut(len(source))
    plan = _plan(source, transform, job)
    names = [shards.shard_file(NAME, "train", i, len(cuts)) for i in range(len(cuts))]
    done = shards.done(folder)
    _refuse_other_jobs(folder, names, done, plan)
    local_shards = range(index, len(cuts), count)
    finished = [i for i in local_shards if names[i] in done]
    total = sum(len(cuts[i]) for i in local_shards)
    encoder = ShardEncoder(
        encode, job, sum(len(cuts[i]) for i in finished), total, progress
    )
    progress(encoder.done, total)
    missing = [i for i in local_shards if i not in finished]
    for i, batches in _by_shard(source, transform, job, cuts, missing, num_threads):
        metadata: dict[str, Any] = {"plan": plan}
        with shards.write_shard(folder / names[i], metadata) as append:
            encoder.write(batches, append, metadata)
    return _finish(folder, names, done, source, transform, job)


def _plan(source: Source, transform: Any, job: LatentJob) -> str:
    metadata = {**dataclasses.asdict(job), "max_damaged": None}
    return fingerprint([source.fingerprint, transform.description, metadata])


def _refuse_other_jobs(
    folder: epath.Path,
    names: Sequence[str],
    done: Mapping[str, dict[str, Any]],
    plan: str,
) -> None:
    """Raises if the directory holds shards that this job would not have written."""
    for name, metadata in done.items():
        if name.startswith(f"{NAME}-") and (
            name not in names or metadata["plan"] != plan
        ):
            raise ValueError(
                f"{folder} holds latents of another job ({name}): images, "
                f"transform, autoencoder or settings differ. Delete it or write "
                f"elsewhere."
            )


def _by_shard(
    source: Source,
    transform: Transform,
    job: LatentJob,
    cuts: list[range],
    missing: Sequence[int],
    num_threads: int,
) -> Iterator[tuple[int, Iterator[list[Read]]]]:
    """Yields (shard, its batches of (index, example)), read ahead by a thread."""

    def read():
        part = functools.partial(transformed, source, transform, job.seed)
        with ThreadPoolExecutor(num_threads) as pool:
            for shard in missing:
                for low in range(cuts[shard].start, cuts[shard].stop, job.batch_size):
                    positions = range(low, min(low + job.batch_size, cuts[shard].stop))
                    rows = [Row(*divmod(i, len(source))) for i in positions]
                    yield in_threads(pool, num_threads, part, rows)

    batches = read_ahead(read)
    for shard in missing:
        count = -(-len(cuts[shard]) // job.batch_size)
        yield shard, itertools.islice(batches, count)


def _finish(
    folder: epath.Path,
    names: Sequence[str],
    done: Mapping[str, dict[str, Any]],
    source: Source,
    transform: Any,
    job: LatentJob,
) -> LatentStats:
    """Waits for the shards of all processes and makes the set readable."""
    while not (done := shards.done(folder, done)).keys() >= set(names):
        time.sleep(WAIT_EVERY * (10 if is_remote(folder) else 1))
    shard_metadata = [done[name] for name in names]
    fields = next(entry["fields"] for entry in shard_metadata if "fields" in entry)
    size = next(entry["image_size"] for entry in shard_metadata if "fields" in entry)
    height, width, _ = fields["moments"][1]
    stats = LatentStats(
        **LatentSums(
            np.sum([entry["sums"] for entry in shard_metadata], axis=0)
        ).result(),
        f=size[0] // height,
        latent_shape=(height, width, job.latent_channels),
        autoencoder=job.autoencoder,
        images=source.fingerprint,
        transform=transform.description,
        dropped=sum(entry["dropped"] for entry in shard_metadata),
        num_classes=getattr(source, "num_classes", None),
        class_names=tuple(getattr(source, "class_names", ())),
    )
    features = {name: _feature(*kind) for name, kind in fields.items()}
    metadata = {
        "stats": dataclasses.asdict(stats),
        "fields": fields,
        "shards": [
            [name, *(entry[n] for n in ("count", "bytes", "sha256", "first"))]
            for name, entry in zip(names, shard_metadata, strict=True)
        ],
    }
    description = "Latents of an image set."
    shards.write_info(
        folder, NAME, features, {"train": shard_metadata}, metadata, description
    )
    return stats


def _feature(dtype: str, shape: Sequence[int] = ()) -> Any:
    if dtype == "str":
        return tfds.features.Text()
    # "bytes" keeps float16 at its size; the default encoding doubles it.
    numpy_dtype = DTYPES.get(dtype) or np.dtype(dtype)
    return tfds.features.Tensor(shape=tuple(shape), dtype=numpy_dtype, encoding="bytes")
