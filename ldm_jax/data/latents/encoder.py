# SPDX-License-Identifier: Apache-2.0
"""Encodes batches of images and makes the records of a set of latents."""

import dataclasses
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
from absl import logging

from ldm_jax.data.examples import write_example
from ldm_jax.data.latents.statistics import LatentSums
from ldm_jax.data.records import MIRRORED, PICTURES, DamagedRecord
from ldm_jax.data.transforms.geometry import mirror_field
from ldm_jax.data.transforms.pixels import from_unit_range, mirror_image

DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}

Encode = Callable[[np.ndarray], Any]


@dataclasses.dataclass(frozen=True)
class LatentJob:
    """Settings of encoding, and the division into shards, equal in every process.

    Attributes:
      latent_channels: c; an encoder that returns 2c channels gives mean and
        log-variance, one that returns c a latent without variance (VQ).
      autoencoder: fingerprint of the first stage's parameters.
      batch_size: images per call of the encoder.
      dtype: of the stored moments, one of DTYPES.
      mirror: store the moments of the mirror image too?
      keep_image: store the image too, uint8? Inpainting makes its condition of it.
      num_crops: transforms of each image that are stored, as separate records.
      records_per_shard: rounded up to whole batches, so that a batch never depends on
        what a killed run had finished.
      seed: of the transforms' randomness.
      max_damaged: how many damaged records are left out before writing fails.
      neighbours: names the neighbours that are stored, "" without any.
      mirrored: fields not in `records.MIRRORED` that differ in the mirror image, each
        laid out [H, W] or [H, W, channels].
    """

    latent_channels: int
    autoencoder: str
    batch_size: int = 64
    dtype: str = "float16"
    mirror: bool = True
    keep_image: bool = False
    num_crops: int = 1
    records_per_shard: int = 4096
    seed: int = 0
    max_damaged: int = 100
    neighbours: str = ""
    mirrored: tuple[str, ...] = ()

    def __post_init__(self):
        if self.dtype not in DTYPES:
            raise ValueError(
                f'unknown dtype "{self.dtype}"; one of: {", ".join(DTYPES)}.'
            )
        for name in ("batch_size", "num_crops", "records_per_shard", "latent_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive: got {getattr(self, name)}.")

    def cut(self, num_records: int) -> list[range]:
        """Divides positions (crop * n + index) into shards."""
        size = -(-self.records_per_shard // self.batch_size) * self.batch_size
        total = num_records * self.num_crops
        return [range(low, min(low + size, total)) for low in range(0, total, size)]


class ShardEncoder:
    """Encodes batches and writes their records, and counts written and dropped ones."""

    def __init__(self, encode, job: LatentJob, done: int, total: int, progress):
        self._encode, self._job, self._progress = encode, job, progress
        self._total, self.done, self._dropped = total, done, 0

    def write(self, batches, append: Callable[[bytes], None], metadata: dict) -> None:
        """Writes the batches of one shard; puts its sums and fields into `metadata`."""
        sums, dropped = LatentSums(), 0
        for batch in batches:
            examples = []
            for index, example in batch:
                if isinstance(example, DamagedRecord):
                    self._drop(index, example)
                    dropped += 1
                else:
                    examples.append((index, example))
            if examples:
                self._write_batch(examples, append, metadata, sums)
            self.done += len(batch)
            self._progress(self.done, self._total)
        metadata.update(dropped=dropped, sums=sums.sums.tolist())

    def _write_batch(self, examples, append, metadata: dict, sums: LatentSums) -> None:
        images = np.stack([example["image"] for _, example in examples])
        fill = self._job.batch_size - len(images)
        images = np.concatenate([images, images[-1:].repeat(fill, axis=0)])
        stored = {"moments": self._moments(images, len(examples))}
        halves = [stored["moments"]]
        if self._job.mirror:
            mirrored = mirror_image(images)
            stored["moments_flip"] = self._moments(mirrored, len(examples))
            halves.append(stored["moments_flip"])
        # The two mirror images of a record are one observation: joined in height.
        sums.add(np.concatenate(halves, axis=1), self._job.latent_channels)
        for row, (index, example) in enumerate(examples):
            record = {name: values[row] for name, values in stored.items()}
            record |= {**self._carried(example), "source_index": np.int64(index)}
            if self._job.mirror:
                for name in (*MIRRORED, *self._job.mirrored):
                    if name in record:
                        record[f"{name}_flip"] = mirror_field(name, record[name])
            append(write_example({k: _to_bytes(v) for k, v in record.items()}))
        metadata.setdefault("image_size", list(images.shape[1:3]))
        metadata.setdefault("fields", {k: _kind(v) for k, v in record.items()})

    def _carried(self, example: dict[str, Any]) -> dict[str, Any]:
        """Returns the fields stored with the moments; pictures as uint8, exactly."""
        carried = dict(example)
        if not self._job.keep_image:
            del carried["image"]
        for name in carried.keys() & PICTURES:
            carried[name] = from_unit_range(carried[name])
        return carried

    def _moments(self, images: np.ndarray, valid: int) -> np.ndarray:
        exact = np.asarray(self._encode(images))[:valid]
        channels = self._job.latent_channels
        if exact.ndim != 4 or exact.shape[-1] not in (channels, 2 * channels):
            raise ValueError(
                f"the encoder must return [B, h, w, {channels}] or [B, h, w, "
                f"{2 * channels}]: got {exact.shape}. Set latent_channels to its own."
            )
        with np.errstate(over="ignore"):
            stored = exact.astype(DTYPES[self._job.dtype])
        if not np.isfinite(stored.astype(np.float32)).all():
            raise ValueError(
                f"the moments are not finite as {self._job.dtype} (largest "
                f"{np.abs(exact).max()}): use bfloat16 or float32 if the encoder is "
                f"sound."
            )
        return stored

    def _drop(self, index: int, error: DamagedRecord) -> None:
        self._dropped += 1
        logging.warning("record %d is left out: %s", index, error)
        if self._dropped > self._job.max_damaged:
            raise DamagedRecord(
                f"more than max_damaged = {self._job.max_damaged} records are damaged, "
                f"the last: {error} Mend or remove them, or raise the bound."
            ) from error


def _to_bytes(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else np.asarray(value).tobytes()


def _kind(value: Any) -> list[Any]:
    """Describes a field: [dtype, shape], or ["str"]."""
    if isinstance(value, str):
        return ["str"]
    value = np.asarray(value)
    return [value.dtype.name, list(value.shape)]
