# SPDX-License-Identifier: Apache-2.0
"""Measures how many images are sampled per second."""

import pathlib
import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from ldm_jax.files.formats.structured import read_json
from ldm_jax.files.writing import write_json
from ldm_jax.parallel.hosts import is_main_process

FILE = "throughput.json"


class Stopwatch:
    """Times the batches of a sampler, except for the first, which includes compilation.

    The fastest batch counts: what else the machine does can only slow one down.
    """

    def __init__(self, batch_size: int):
        """Starts without batches; a batch of fewer images does not count."""
        self.batch_size = batch_size
        self._best: float | None = None

    def timed(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yields batches, [B, H, W, 3] each, and takes the time from each to the next.

        What the caller does with a batch counts, as far as the next one waits for it.
        """
        previous: float | None = None
        for batch in batches:
            now = time.perf_counter()
            if previous is not None and len(batch) == self.batch_size:
                self._best = min(now - previous, self._best or now - previous)
            previous = now
            yield batch

    def read(self, folder: pathlib.Path) -> dict[str, Any]:
        """Returns the speed, and writes it to throughput.json.

        Args:
          folder: of the samples. Where no batch was timed, an earlier call's file
            counts.

        Returns:
          "images_per_second", "batch_size", "device", "num_devices"; {} if unknown.
        """
        if self._best is None:
            path = folder / FILE
            return read_json(path) if path.exists() else {}
        device = jax.devices()[0]
        speed = dict(
            images_per_second=self.batch_size / self._best,
            batch_size=self.batch_size,
            device=device.device_kind,
            num_devices=jax.device_count(),
        )
        if is_main_process():
            write_json(folder / FILE, speed)
        return speed
