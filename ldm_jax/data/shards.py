# SPDX-License-Identifier: Apache-2.0
"""Writes TFDS sets as ArrayRecord shards, by many processes, across kills.

A shard is written under a temporary name and renamed when whole; then a side file
`<shard>.done.json` says how many records and bytes it has. A killed writer redoes only
the shards without a side file. TFDS' metadata come last, `dataset_info.json` at the
very end: a set that is not whole cannot be opened.

TFDS' own builders are not used: they hold a split in memory and, past 1000 MiB, need
TensorFlow.
"""

import contextlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from ldm_jax.files.writing import temporary_name, write_error, write_json

# One record per chunk, for random access. Noise-like data shrink by 7% only, and
# reading them uncompressed is up to twice as fast.
WRITER_OPTIONS = "group_size:1,uncompressed"


def shard_file(name: str, split: str, shard: int, num_shards: int) -> str:
    """Returns the file name that TFDS expects of a shard."""
    return f"{name}-{split}.array_record-{shard:05d}-of-{num_shards:05d}"


def local_directory(directory: str | os.PathLike) -> pathlib.Path:
    """Makes the directory of a set.

    Raises:
      ValueError: a URL; ArrayRecord writes files only.
    """
    if "://" in os.fspath(directory):
        raise ValueError(
            f"shards are written to a file system: got {directory}. Write to a disk or "
            f"a mounted bucket, then copy."
        )
    path = pathlib.Path(directory).expanduser()
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def write_shard(path: pathlib.Path, facts: dict[str, Any]) -> Iterator[Callable]:
    """Writes one shard; if the block raises, no shard is left.

    Args:
      path: of the shard.
      facts: written to the side file beside count and bytes; may be filled in the
        block.

    Yields:
      A function that appends one record, given as bytes.
    """
    partial = temporary_name(path)
    count = 0
    writer = ArrayRecordWriter(os.fspath(partial), WRITER_OPTIONS)

    def append(record: bytes) -> None:
        nonlocal count
        with _reported(path):
            writer.write(record)
        count += 1

    try:
        yield append
        with _reported(path):
            writer.close()
    except BaseException:
        with contextlib.suppress(Exception):
            writer.close()
        partial.unlink(missing_ok=True)
        raise
    os.replace(partial, path)
    write_json(
        _side_file(path), {**facts, "count": count, "bytes": path.stat().st_size}
    )


def done(path: pathlib.Path) -> dict[str, Any] | None:
    """Returns the facts of a shard that is whole, or None."""
    try:
        facts = json.loads(_side_file(path).read_text())
        return facts if path.stat().st_size == facts["bytes"] else None
    except FileNotFoundError:
        return None


def write_info(
    directory: pathlib.Path,
    name: str,
    features: dict[str, Any],
    splits: dict[str, list[dict[str, Any]]],
    metadata: dict[str, Any],
    description: str,
    process: int,
) -> None:
    """Writes the metadata that make shards a TFDS set; each file appears whole.

    Any process may do this, and more than one: they write the same.

    Args:
      directory: of the shards.
      name: of the set.
      features: TFDS feature by name.
      splits: the facts of every shard in order, by split.
      metadata: JSON; comes back as `builder.info.metadata`.
      description: one sentence.
      process: the number of this one among those that write the set.
    """
    template = tfds.core.ShardedFileTemplate(
        data_dir=directory,
        template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        dataset_name=name,
        filetype_suffix="array_record",
    )
    identity = tfds.core.dataset_info.DatasetIdentity(
        name=name,
        version=tfds.core.utils.Version("1.0.0"),
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
    info.set_splits(tfds.core.splits.SplitDict(split_infos))
    aside = directory / f".info-{process}"
    shutil.rmtree(aside, ignore_errors=True)  # of the same process, killed before
    aside.mkdir()
    info.write_to_directory(aside)
    files = sorted(aside.iterdir(), key=lambda file: file.name == "dataset_info.json")
    for file in files:
        os.replace(file, directory / file.name)
    shutil.rmtree(aside, ignore_errors=True)
    for partial in directory.glob(".*.partial"):  # of writers that were killed
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _reported(path: pathlib.Path) -> Iterator[None]:
    """Makes any error of ArrayRecord's one of writing: it has none of its own."""
    try:
        yield
    except Exception as error:
        raise write_error(path, error, "a shard") from error


def _side_file(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f"{path.name}.done.json")
