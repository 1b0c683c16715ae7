# SPDX-License-Identifier: Apache-2.0
"""Measures how fast latents are written and read: records and MiB per second."""

import dataclasses
import resource
import tempfile
import time
from collections.abc import Callable, Sequence

import numpy as np

from ldm_jax.commands.bench.history import Figures
from ldm_jax.data.latents.source import LatentTransform, open_latents
from ldm_jax.data.latents.write import LatentJob, write_latents
from ldm_jax.data.loader import make_batches


class RandomImages:
    """A set of any length that needs no disk: grey squares of random brightness."""

    fingerprint = "random images"

    def __init__(self, length: int, side: int):
        self._length, self._side = length, side

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict:
        image = np.full((self._side, self._side, 1), index % 255, np.float32)
        return {"image": image, "label": np.int32(index % 1000)}

    def __getitems__(self, indices: Sequence[int]) -> list[dict]:
        return [self[int(index)] for index in indices]


class AsItIs:
    """The identity transform."""

    @property
    def description(self) -> dict:
        return {"kind": "as it is"}

    def __call__(self, record, rng):
        del rng
        return record


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the benchmark, one flag each.

    Attributes:
      records: number of latents.
      latent_size: h = w.
      latent_channels: c.
      mirror: whether the mirror image's moments are stored too.
      batch_size: latents of a batch.
      needed: records per second that a training step reads on one host.
    """

    records: int
    latent_size: int
    latent_channels: int
    mirror: bool
    batch_size: int
    needed: float


def run(options: Options) -> Figures:
    """Writes and reads latents, prints the rates and returns that of reading."""
    with tempfile.TemporaryDirectory() as directory:
        record_mib = _write(options, directory)
        rate = _read(options, directory, record_mib)
    needed = options.needed
    print(f"the step needs {needed:.0f} records/s: {rate / needed:.1f} times")
    return {"records/s": rate}


def _write(options: Options, directory: str) -> float:
    """Writes the set; returns MiB per record."""
    h, c = options.latent_size, options.latent_channels
    noise = np.random.default_rng(0).normal(size=(options.batch_size, h, h, 2 * c))
    moments = noise.astype(np.float32)
    job = LatentJob(
        c, "none", options.batch_size, mirror=options.mirror, records_per_shard=8192
    )
    record_mib = h * h * 2 * c * 2 * (1 + options.mirror) / 2**20

    def write():
        write_latents(
            lambda image: moments,
            RandomImages(options.records, h),  # f = 1
            AsItIs(),
            directory,
            job,
        )

    _measure("write", write, options.records, record_mib)
    return record_mib


def _read(options: Options, directory: str, record_mib: float) -> float:
    """Reads batches in random order; returns records per second."""
    source, _ = open_latents(directory)
    batches = make_batches(source, LatentTransform(), options.batch_size)
    steps = max(1, options.records // options.batch_size)
    batches(0)  # opens the shards

    def rows():
        for start in range(0, steps * options.batch_size, options.batch_size):
            indices = np.random.default_rng(start).integers(
                0, options.records, options.batch_size
            )
            source.__getitems__(indices.tolist())

    peaks = []  # after a tenth of the steps, and at the end

    def stream():
        stream = batches.stream(1)
        for step in range(steps):
            next(stream)
            if step in (steps // 10, steps - 1):
                peaks.append(_peak_mib())
        stream.close()

    count = steps * options.batch_size
    _measure("read records", rows, count, record_mib)
    rate = _measure("read batches", stream, count, record_mib)
    print(
        f"peak memory of the process {peaks[0]:.0f} MiB after a tenth of the "
        f"batches, {peaks[-1]:.0f} MiB after all"
    )
    return rate


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _measure(
    name: str, run: Callable[[], None], count: int, record_mib: float
) -> float:
    """Prints the rates of one part; returns records per second of wall time."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(
        f"{name:13s} {count / wall:8.0f} records/s {count / wall * record_mib:6.0f} "
        f"MiB/s   per core {count / cpu:8.0f} records/s "
        f"{count / cpu * record_mib:6.0f} MiB/s",
        flush=True,
    )
    return count / wall
