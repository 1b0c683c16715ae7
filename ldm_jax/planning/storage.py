# SPDX-License-Identifier: Apache-2.0
"""Bytes, objects and requests of a set of latents on an object store."""

import math
from typing import NamedTuple

from ldm_jax.files.stores.objects import RANGE_BYTES

# Of a record without its moments: its other fields, their names, the header of a chunk.
RECORD_OVERHEAD = 200
# Objects of a set other than the shards and their side files.
METADATA_OBJECTS = 4


class LatentStorage(NamedTuple):
    """What a set of latents takes.

    Attributes:
      bytes: of all objects.
      objects: their number: two a shard, and the metadata.
      shard_bytes: of one shard.
      writes: requests that write the set, all hosts together.
      reads: requests by which one host copies it to its disk.
    """

    bytes: int
    objects: int
    shard_bytes: int
    writes: int
    reads: int


def latent_storage(
    num_images: int,
    height: int,
    width: int,
    stored_channels: int,
    *,
    mirror: bool = True,
    bytes_per_value: int = 2,
    records_per_shard: int = 4096,
) -> LatentStorage:
    """Estimates the storage of a set of latents, as `ldm-jax latents` writes it.

    Args:
      num_images: in the set.
      height, width: of a latent: those of the image, divided by f.
      stored_channels: c of a VQ first stage, 2c (mean and log-variance) of KL.
      mirror: whether both mirror images are stored.
      bytes_per_value: 2 of float16 and bfloat16, 4 of float32.
      records_per_shard: records of one file.

    Returns:
      The estimate; bytes to 2 % for latents of 4 kB or more without pictures.
    """
    moments = height * width * stored_channels * bytes_per_value
    record = moments * (2 if mirror else 1) + RECORD_OVERHEAD
    shards = math.ceil(num_images / records_per_shard)
    shard_bytes = record * min(records_per_shard, num_images)
    return LatentStorage(
        bytes=record * num_images,
        objects=2 * shards + METADATA_OBJECTS,
        shard_bytes=shard_bytes,
        # A large object: one request to begin, one for each part of 50 MiB.
        writes=shards * (2 + math.ceil(shard_bytes / (50 * 2**20))) + METADATA_OBJECTS,
        reads=shards * math.ceil(shard_bytes / RANGE_BYTES),
    )
