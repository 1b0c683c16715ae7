# SPDX-License-Identifier: Apache-2.0
"""Measures how fast latents are written and read: records and MiB per second."""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Sequence

import numpy as np

from ldm_jax.data.latents.source import LatentTransform, open_latents
from ldm_jax.data.latents.write import LatentJob, write_latents
from ldm_jax.data.loader import make_batches


class RandomImages:
    """A set of any length that needs no disk: grey squares of random brightness."""

    fingerprint = "random images"

    def __init__(self, length: int):
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict:
        return {"image": np.float32([[[index % 255]]]), "label": np.int32(index % 1000)}

    def __getitems__(self, indices: Sequence[int]) -> list[dict]:
        return [self[int(index)] for index in indices]


class AsItIs:
    """The transform that changes nothing."""

    @property
    def description(self) -> dict:
        return {"kind": "as it is"}

    def __call__(self, record, rng):
        del rng
        return record


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark and prints its figures; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="ldm-jax bench data",
        description="Writes latents of random numbers to a temporary directory and "
        "reads them in random order, in this process, without worker processes. "
        "'per core' divides by processor time, which other jobs do not disturb.",
    )
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--latent_size", type=int, default=32, help="h = w")
    parser.add_argument("--latent_channels", type=int, default=4, help="c")
    parser.add_argument(
        "--mirror", action="store_true", help="store the mirror image's moments too"
    )
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument(
        "--needed",
        type=float,
        default=1000.0,
        help="records per second that the training step eats on one host",
    )
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as directory:
        record_mib = _write(args, directory)
        rate = _read(args, directory, record_mib)
    print(f"the step needs {args.needed:.0f} records/s: {rate / args.needed:.1f} times")
    return 0


def _write(args: argparse.Namespace, directory: str) -> float:
    """Writes the set; returns MiB per record."""
    h, c = args.latent_size, args.latent_channels
    noise = np.random.default_rng(0).normal(size=(args.batch_size, h, h, 2 * c))
    moments = noise.astype(np.float32)
    job = LatentJob(
        c, "none", args.batch_size, mirror=args.mirror, records_per_shard=8192
    )
    record_mib = h * h * 2 * c * 2 * (1 + args.mirror) / 2**20

    def write():
        write_latents(
            lambda image: moments, RandomImages(args.records), AsItIs(), directory, job
        )

    _measure("write", write, args.records, record_mib)
    return record_mib


def _read(args: argparse.Namespace, directory: str, record_mib: float) -> float:
    """Reads batches in random order; returns records per second."""
    source, _ = open_latents(directory)
    batches = make_batches(source, LatentTransform(), args.batch_size)
    steps = max(1, args.records // args.batch_size)
    batches(0)  # opens the shards

    def rows():
        for start in range(0, steps * args.batch_size, args.batch_size):
            indices = np.random.default_rng(start).integers(
                0, args.records, args.batch_size
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

    count = steps * args.batch_size
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


if __name__ == "__main__":
    raise SystemExit(main())
