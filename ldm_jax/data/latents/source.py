# SPDX-License-Identifier: Apache-2.0
"""Opens a set of latents: many random records per second from one thread."""

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from ldm_jax.data.examples import SameLayout
from ldm_jax.data.latents.metadata import LatentMetadata, read_latent_metadata
from ldm_jax.data.latents.statistics import LatentStats
from ldm_jax.data.record_files import RecordFile, RecordFiles
from ldm_jax.data.records import PICTURES, DamagedRecord, Record, fingerprint
from ldm_jax.data.shards import file_digest, hexdigest
from ldm_jax.data.transforms.masks import draw_mask
from ldm_jax.data.transforms.pixels import to_unit_range
from ldm_jax.files.errors import UnreadableFile
from ldm_jax.files.paths import is_remote, resolve
from ldm_jax.files.stores.objects import list_objects, sizes_in
from ldm_jax.files.stores.store_errors import reaching


def open_latents(directory: str | os.PathLike) -> tuple["LatentSource", LatentStats]:
    """Opens a set of latents that `write_latents` wrote.

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
    with reaching(directory):
        if not (folder / "dataset_info.json").exists():
            begun = sum(name.endswith(".done.json") for name in sizes_in(folder))
            state = (
                f"unfinished ({begun} shards are complete)" if begun else "not there"
            )
            raise UnreadableFile(
                f"the set of latents {folder} is {state}; run ldm-jax latents, which "
                f"resumes where it stopped, or give another directory."
            )
        metadata = read_latent_metadata(folder)
    return LatentSource(folder, metadata), metadata.stats


class LatentSource:
    """Records of latents by index; safe to read from several threads.

    Attributes:
      fingerprint: digest of the metadata of the set and its shards.
    """

    def __init__(self, folder: epath.Path, metadata: LatentMetadata):
        self._fields, self._shards = metadata.fields, metadata.shards
        self._files = RecordFiles(_record_files(folder, metadata), os.fspath(folder))
        self._layout = SameLayout()
        stats = dataclasses.asdict(metadata.stats)
        self.fingerprint = fingerprint([stats, metadata.shards])
        if not is_remote(folder):  # a copy is compared as a whole
            self._check_first_records()

    def _check_first_records(self) -> None:
        """Compares the first record of every shard with the metadata.

        One small read a shard. A record that is damaged is left to reading.

        Raises:
          UnreadableFile: a shard of another set.
        """
        for i, shard in enumerate(self._shards):
            with contextlib.suppress(DamagedRecord):
                if shard.count and hexdigest(self._files.read(i, [0])[0]) != (
                    shard.first
                ):
                    raise UnreadableFile(
                        f"shard {self._files.files[i].path} is of another set: its "
                        "first record is not that of the metadata. Copy this set again."
                    )
        self._files.close()  # not a file of each held open

    def verify(self) -> None:
        """Compares every shard with its checksum: reads all of the set, 1 GB/s or so.

        Raises:
          UnreadableFile: a shard differs; names all that do.
        """
        paths = [file.path for file in self._files.files]
        wrong = [
            path
            for path, shard in zip(paths, self._shards, strict=True)
            if file_digest(resolve(path)) != shard.sha256
        ]
        if wrong:
            raise UnreadableFile(
                f"{len(wrong)} shards are not as they were written: "
                f"{', '.join(wrong[:10])}. Delete them and dataset_info.json, and run "
                "ldm-jax latents again."
            )

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Record:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Record]:
        stored = self._files.__getitems__(indices)
        return [self._record(*pair) for pair in zip(indices, stored, strict=True)]

    def _record(self, index: int, data: bytes) -> Record:
        try:
            return {
                name: _value(view, self._fields[name])
                for name, view in self._layout.read(data).items()
            }
        except (ValueError, KeyError) as error:
            number, position = self._files.locate(index)
            raise DamagedRecord(
                f"{self._files.files[number].path}, record {position}: {error}"
            ) from error


def _record_files(folder: epath.Path, metadata: LatentMetadata) -> list[RecordFile]:
    """Finds the shards of a set, with one listing.

    Raises:
      UnreadableFile: one is not there, or has another size.
    """
    stored = list_objects(folder) if is_remote(folder) else {}
    sizes = {n: x.size for n, x in stored.items()} if stored else sizes_in(folder)
    files = []
    for shard in metadata.shards:
        path = os.fspath(folder / shard.name)
        if (size := sizes.get(shard.name, "no file")) != shard.num_bytes:
            raise UnreadableFile(
                f"shard {path} must have {shard.num_bytes} bytes: got {size}. Delete "
                "dataset_info.json and run ldm-jax latents again: it writes this "
                "shard again and keeps the others."
            )
        item = stored.get(shard.name)
        item = item._replace(sha256=shard.sha256) if item else None
        files.append(RecordFile(path, shard.count, item=item))
    return files


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
        """The transform as JSON."""
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
