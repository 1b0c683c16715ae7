# SPDX-License-Identifier: Apache-2.0
"""Opens a set of latents: many random records per second from one thread."""

import bisect
import contextlib
import dataclasses
import itertools
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from etils import epath

from ldm_jax.data.examples import SameLayout
from ldm_jax.data.latents.metadata import LatentMetadata, read_latent_metadata
from ldm_jax.data.latents.statistics import LatentStats
from ldm_jax.data.records import PICTURES, DamagedRecord, Record, fingerprint
from ldm_jax.data.shards import file_digest, hexdigest
from ldm_jax.data.transforms.masks import draw_mask
from ldm_jax.data.transforms.pixels import to_unit_range
from ldm_jax.files.errors import UnreadableFile
from ldm_jax.files.paths import resolve

# Without these, ArrayRecord reads ahead as if the order were sequential.
READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"


def open_latents(directory: str | os.PathLike) -> tuple["LatentSource", LatentStats]:
    """Opens what `write_latents` wrote.

    Args:
      directory: of the set; also a URL, "gs://bucket/latents" with gcsfs installed.

    Returns:
      (source, stats). Records have "moments" [h, w, 2c] (VQ: [h, w, c]), "moments_flip"
      if mirror images were stored, "source_index" int64 [], and the fields carried
      along ("label", ...), all in the dtypes of storage.

    Raises:
      ValueError: no set of latents, one that is not finished, or a damaged shard.
    """
    folder = resolve(directory)
    with reachable(directory):
        if not (folder / "dataset_info.json").exists():
            begun = len(list(folder.glob("*.done.json")))
            state = f"unfinished ({begun} shards are whole)" if begun else "not there"
            raise UnreadableFile(
                f"the set of latents {folder} is {state}; run ldm-jax latents, which "
                f"resumes where it stopped, or give another directory."
            )
        metadata = read_latent_metadata(folder)
    return LatentSource(folder, metadata), metadata.stats


@contextlib.contextmanager
def reachable(directory: str | os.PathLike) -> Iterator[None]:
    """Says what is missing where an object store cannot be read."""
    try:
        yield
    except ImportError as error:
        raise ValueError(
            f"{directory} cannot be read: {error}. Install that, or mount or copy the "
            f"directory."
        ) from error


class LatentSource:
    """Records of latents by index; safe to read from several threads.

    Attributes:
      fingerprint: digest of the metadata of the set and its shards.
    """

    def __init__(self, folder: epath.Path, metadata: LatentMetadata):
        self._paths, lengths = [], []
        sizes = _sizes(folder)
        for name, count, size, *_ in metadata.shards:
            path = folder / name
            stored = sizes.get(name, "no file")
            if stored not in (size, UNKNOWN):
                raise UnreadableFile(
                    f"shard {path} must have {size} bytes: got {stored}. Delete "
                    f"dataset_info.json and run ldm-jax latents again: it writes this "
                    f"shard again and keeps the others."
                )
            self._paths.append(path)
            lengths.append(count)
        self._ends = list(itertools.accumulate(lengths))
        self._fields, self._shards = metadata.fields, metadata.shards
        self._readers: dict[int, ArrayRecordReader] = {}
        self._lock, self._layout = threading.Lock(), SameLayout()
        stats = dataclasses.asdict(metadata.stats)
        self.fingerprint = fingerprint([stats, metadata.shards])
        if UNKNOWN not in sizes.values():
            self._check_first_records()

    def _check_first_records(self) -> None:
        """Compares the first record of every shard with the metadata.

        One small read a shard. A record that is damaged is left to reading.

        Raises:
          UnreadableFile: a shard of another set.
        """
        for i, shard in enumerate(self._shards):
            with contextlib.suppress(DamagedRecord):
                if shard.count and hexdigest(self._read(i, [0])[0]) != shard.first:
                    raise UnreadableFile(
                        f"shard {self._paths[i]} is of another set: its first record "
                        "is not that of the metadata. Copy this set again."
                    )
        self._readers.clear()  # not a file of each held open

    def verify(self) -> None:
        """Compares every shard with its checksum: reads all of the set, 1 GB/s or so.

        Raises:
          UnreadableFile: a shard differs; names all that do.
        """
        wrong = [
            os.fspath(path)
            for path, shard in zip(self._paths, self._shards, strict=True)
            if file_digest(path) != shard.sha256
        ]
        if wrong:
            raise UnreadableFile(
                f"{len(wrong)} shards are not as they were written: "
                f"{', '.join(wrong[:10])}. Delete them and dataset_info.json, and run "
                "ldm-jax latents again."
            )

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Record:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Record]:
        by_shard: dict[int, list[tuple[int, int]]] = {}
        for place, index in enumerate(indices):
            if not 0 <= index < len(self):
                raise IndexError(f"record {index} of {len(self)}")
            shard = bisect.bisect_right(self._ends, index)
            first = self._ends[shard - 1] if shard else 0
            by_shard.setdefault(shard, []).append((place, int(index) - first))
        records: list[Record] = [{}] * len(indices)
        for shard, rows in by_shard.items():
            data_of_rows = self._read(shard, [position for _, position in rows])
            for (place, position), data in zip(rows, data_of_rows, strict=True):
                records[place] = self._record(data, shard, position)
        return records

    def _read(self, shard: int, positions: list[int]) -> list[bytes]:
        try:
            with self._lock:
                if shard not in self._readers:
                    path = os.fspath(self._paths[shard])
                    reader = ArrayRecordReader(path, READER_OPTIONS)
                    if reader.num_records() != self._shards[shard].count:
                        raise ValueError(
                            f"it has {reader.num_records()} records, not "
                            f"{self._shards[shard].count}"
                        )
                    self._readers[shard] = reader
                return self._readers[shard].read(positions)
        except (RuntimeError, ValueError, IndexError) as error:
            self._readers.pop(shard, None)  # one that failed stays failed
            raise DamagedRecord(
                f"{self._paths[shard]}, records {positions[:4]}: {error}"
            ) from error

    def _record(self, data: bytes, shard: int, position: int) -> Record:
        try:
            return {
                name: _value(view, self._fields[name])
                for name, view in self._layout.read(data).items()
            }
        except (ValueError, KeyError) as error:
            raise DamagedRecord(
                f"{self._paths[shard]}, record {position}: {error}"
            ) from error


# Size of a shard on an object store: asking for each would take minutes.
UNKNOWN = -1


def _sizes(folder: epath.Path) -> dict[str, int]:
    """Returns the bytes of every file of a directory, by name."""
    if "://" in os.fspath(folder):
        return {path.name: UNKNOWN for path in folder.iterdir()}
    with os.scandir(folder) as entries:
        return {
            entry.name: entry.stat().st_size for entry in entries if entry.is_file()
        }


def _value(view: memoryview, kind: tuple[np.dtype, tuple[int, ...]] | None) -> Any:
    if kind is None:
        return bytes(view).decode()
    dtype, shape = kind
    return np.frombuffer(view, dtype).reshape(shape)


@dataclasses.dataclass(frozen=True)
class LatentTransform:
    """Makes a training example of a latent: (record, rng) -> example.

    Attributes:
      flip: take the mirror image's fields with probability 1/2, where they are stored?
      mask: a kind of `masks.KINDS` gives "mask", a random hole of the size of the
        stored image; None does not.
    """

    flip: bool = True
    mask: str | None = None

    @property
    def description(self) -> dict[str, Any]:
        """What is done, as JSON."""
        return {"kind": "latent", "flip": self.flip, "mask": self.mask}

    def __call__(self, record: Record, rng: np.random.Generator) -> dict[str, Any]:
        """Transforms one record.

        Args:
          record: of a LatentSource.
          rng: the record's own.

        Returns:
          "moments" [h, w, 2c], in the dtype of storage (half the way to the device;
          the model computes in float32), and the fields carried along, but
          pictures ("image", "low_res") float32 in [-1, 1]; "mask" float32 [H, W, 1], 1
          in the hole, if requested.

        Raises:
          ValueError: a mask is requested, but the images were not stored.
        """
        flip = self.flip and "moments_flip" in record and rng.random() < 0.5
        example = {
            name: record.get(f"{name}_flip", value) if flip else value
            for name, value in record.items()
            if name != "source_index" and not name.endswith("_flip")
        }
        for name in example.keys() & PICTURES:
            example[name] = to_unit_range(example[name])
        if self.mask:
            if "image" not in example:
                raise ValueError(
                    "a mask needs the image: these latents were written without; write "
                    "them for this experiment (ldm-jax latents --config)."
                )
            size = example["image"].shape[:2]
            example["mask"] = draw_mask(self.mask, size, rng)
        return example
