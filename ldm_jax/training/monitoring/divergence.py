# SPDX-License-Identifier: Apache-2.0
"""Ends a run whose steps are not finite, and stores the records of these steps."""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ldm_jax.files.paths import resolve
from ldm_jax.files.writing import write_json
from ldm_jax.parallel.hosts import is_main_process

RECORDS_SHOWN = 8


class Diverged(RuntimeError):
    """Raised when too many steps in a row were skipped."""

    is_everywhere = True  # all processes see the same metrics, see `parallel.stopping`


class DivergenceGuard:
    """Counts skipped steps; a step is skipped when it is not finite, or a spike."""

    def __init__(
        self,
        workdir: str,
        max_skipped: int,
        records: Callable[[int], Sequence[Any]] = lambda step: (),
        last_checkpoint: Callable[[], int | None] = lambda: None,
    ):
        """Watches from the first step on.

        Args:
          workdir: gets diverged.json when the run ends here.
          max_skipped: skipped steps in a row that end the run; 1 ends it at once.
          records: step (from 0) -> names of the records of its batch, as JSON.
          last_checkpoint: the step of the newest checkpoint, or None.
        """
        self._workdir, self._max_skipped = resolve(workdir), max_skipped
        self._records, self._last_checkpoint = records, last_checkpoint
        self._window: deque[dict] = deque(maxlen=max_skipped)
        self.in_a_row = 0

    def check(self, step: int, metrics: Mapping[str, float]) -> None:
        """Checks the metrics of a step.

        Raises:
          Diverged: it was the last of `max_skipped` that were skipped in a row.
        """
        self.in_a_row = self.in_a_row + 1 if metrics["skipped"] else 0
        if not metrics["skipped"]:
            self._window.clear()
            return
        values = {n: v if math.isfinite(v) else str(v) for n, v in metrics.items()}
        self._window.append({"step": step, "metrics": values})
        if self.in_a_row >= self._max_skipped:
            self._end(step, metrics)

    def _end(self, step: int, metrics: Mapping[str, float]) -> None:
        for entry in self._window:
            entry["records"] = list(self._records(entry["step"] - 1))
        saved = self._last_checkpoint()
        path = self._workdir / "diverged.json"
        if is_main_process():
            report = {"last_checkpoint": saved, "steps": list(self._window)}
            write_json(path, report, indent=1)
        first = step - self.in_a_row + 1
        records = self._window[-1]["records"]
        shown = ", ".join(map(str, records[:RECORDS_SHOWN]))
        more = f", ... ({len(records)})" if len(records) > RECORDS_SHOWN else ""
        good = (
            "there is no checkpoint yet"
            if saved is None
            else (f"the checkpoint of step {saved} in {self._workdir} is good")
        )
        raise Diverged(
            f"loss or gradient was not finite (or above train.skip_norm_above) in "
            f"steps {first} to {step}, which were skipped: loss {metrics['loss']:g} in "
            f"step {step}, whose batch held the records {shown}{more}; {path} lists "
            f"all. No parameter was changed by them, and {good}. Lower the learning "
            "rate, clip the gradient (optimizer.clip_norm), or look at these records."
        )
