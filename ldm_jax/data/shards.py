# SPDX-License-Identifier: Apache-2.0
"""Writes TFDS sets as ArrayRecord shards, with many processes that may be killed.

A shard is written under a temporary name and renamed when it is complete. Then a side
file `<shard>.done.json` stores its numbers of records and bytes. A killed writer writes
only the shards without a side file again. TFDS' metadata is written last,
`dataset_info.json` at the very end, so an incomplete set cannot be opened.

TFDS' own builders are not used, because they keep a split in memory and, beyond
1000 MiB, need TensorFlow.
"""

import contextlib
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath

from ldm_jax.files.formats.structured import parse_json
from ldm_jax.files.partials import remove_partials
from ldm_jax.files.paths import is_remote, resolve
from ldm_jax.files.stores.objects import read_many, sizes_in
from ldm_jax.files.stores.staging import local_twin
from ldm_jax.files.write_errors import reported
from ldm_jax.files.writing import atomic_path, files_into, write_json

# One record per chunk, for random access. Noise-like data shrink by 7% only, and
# reading them uncompressed is up to twice as fast.
WRITER_OPTIONS = "group_size:1,uncompressed"


# What is added to the name of a shard's side file.
DONE = ".done.json"


def shard_file(name: str, split: str, shard: int, num_shards: int) -> str:
    """Returns the file name that TFDS expects of a shard."""
    return f"{name}-{split}.array_record-{shard:05d}-of-{num_shards:05d}"


def make_directory(directory: str | os.PathLike) -> epath.Path:
    """Makes the directory of a set; on a store there is nothing to make."""
    path = resolve(directory)
    if not is_remote(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def write_shard(path: epath.Path, metadata: dict[str, Any]) -> Iterator[Callable]:
    """Writes one shard; if the block raises, no shard is left.

    Args:
      path: of the shard; one on a store is made locally and copied when complete.
      metadata: written to the side file with count and bytes; may be filled in the
        block.

    Yields:
      A function that appends one record, given as bytes.
    """
    count, first = 0, ""

    def append(record: bytes) -> None:
        nonlocal count, first
        first = first or hexdigest(record)
        with reported(path, "a shard", every=True):
            writer.write(record)
        count += 1

    with local_twin(path) as place:
        with atomic_path(place) as partial:
            with reported(path, "a shard", every=True):
                writer = ArrayRecordWriter(os.fspath(partial), WRITER_OPTIONS)
            try:
                yield append
            except BaseException:
                with contextlib.suppress(Exception):
                    writer.close()
                raise
            with reported(path, "a shard", every=True):
                writer.close()
        checks = {"sha256": file_digest(place), "first": first}
        size = place.stat().st_size
    write_json(_side_file(path), {**metadata, "count": count, "bytes": size, **checks})


def hexdigest(data: bytes) -> str:
    """Returns the SHA-256 of bytes in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: epath.Path | pathlib.Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal digits."""
    opened: Any = path.open("rb")  # by epath's types, it may be text
    with opened as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def done(
    folder: epath.Path, known: Mapping[str, dict[str, Any]] | None = None
) -> dict[str, dict[str, Any]]:
    """Returns the metadata of the complete shards, by the names of their files.

    One listing, and one read of every side file that is new: asked again and again
    while other processes write, it costs a store little.

    Args:
      folder: of the set; may be a URL.
      known: what an earlier call returned.
    """
    sizes = sizes_in(folder)
    names = [
        name.removesuffix(DONE)
        for name in sorted(sizes)
        if name.endswith(DONE) and name.removesuffix(DONE) in sizes
    ]
    new = [name for name in names if name not in (known or {})]
    texts = read_many([os.fspath(folder / f"{name}{DONE}") for name in new])
    entries = {
        **(known or {}),
        **{
            name: parse_json(text, folder / f"{name}{DONE}")
            for name, text in zip(new, texts, strict=True)
        },
    }
    return {n: entries[n] for n in names if entries[n].get("bytes") == sizes[n]}


def write_info(
    directory: epath.Path,
    name: str,
    features: dict[str, Any],
    splits: dict[str, list[dict[str, Any]]],
    metadata: dict[str, Any],
    description: str,
) -> None:
    """Writes the metadata that make shards a TFDS set, each file atomically.

    Any process may do this, and more than one: they write the same.

    Args:
      directory: of the shards.
      name: of the set.
      features: TFDS feature by name.
      splits: the metadata of every shard in order, by split.
      metadata: JSON; comes back as `builder.info.metadata`.
      description: one sentence.
    """
    template = tfds.core.ShardedFileTemplate(
        data_dir=directory,
        template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        dataset_name=name,
        filetype_suffix="array_record",
    )
    # Modules that tfds loads on first use, which its types leave out.
    core: Any = tfds.core
    identity = core.dataset_info.DatasetIdentity(
        name=name,
        version=core.utils.Version("1.0.0"),
        data_dir=os.fspath(directory),
        module_name="",
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        description=description,
        features=tfds.features.FeaturesDict(features),
        metadata=tfds.core.MetadataDict(metadata),
    )
    info.set_file_format("array_record")
    split_infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[shard["count"] for shard in shards],
            num_bytes=sum(shard["bytes"] for shard in shards),
            filename_template=template.replace(split=split),
        )
        for split, shards in splits.items()
    ]
    info.set_splits(core.splits.SplitDict(split_infos))
    with files_into(directory, last="dataset_info.json") as folder:
        info.write_to_directory(folder)
    # All shards are there, so these are of writers that were killed.
    if is_remote(directory):
        return
    remove_partials(directory, lambda file: file.startswith(f"{name}-"), seconds=0)


def _side_file(path: epath.Path) -> epath.Path:
    return path.parent / f"{path.name}{DONE}"
