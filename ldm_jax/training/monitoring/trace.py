# SPDX-License-Identifier: Apache-2.0
"""Records a profiler trace of some steps, for TensorBoard or Perfetto."""

from collections.abc import Sequence

import jax

from ldm_jax.parallel.hosts import is_main_process
from ldm_jax.types import PyTree


class Trace:
    """Records steps first to last, on process 0."""

    def __init__(self, steps: Sequence[int]):
        """Takes the steps to trace: `LoopOptions.profile_steps`, checked there."""
        self._first, self._last = steps or (0, 0)
        self._runs = False

    def before(self, step: int, directory: str) -> None:
        """Starts recording, into `directory`, if `step` is the first."""
        if step == self._first and is_main_process():
            jax.profiler.start_trace(directory)
            self._runs = True

    def after(self, step: int, results: PyTree) -> None:
        """Stops recording, once `results` are there, if `step` was the last."""
        if self._runs and step == self._last:
            jax.block_until_ready(results)
            self._stop()

    def _stop(self) -> None:
        self._runs = False
        jax.profiler.stop_trace()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._runs:  # the run ended before `last`
            self._stop()
