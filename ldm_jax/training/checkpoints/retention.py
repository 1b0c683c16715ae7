# SPDX-License-Identifier: Apache-2.0
"""Chooses the checkpoints to keep: the latest, and the best by an evaluation scalar."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from etils import epath

from ldm_jax.files.errors import naming
from ldm_jax.files.formats.structured import read_json
from ldm_jax.files.writing import write_json
from ldm_jax.parallel.hosts import is_main_process


class LatestAndBest:
    """A preservation policy of orbax, which never deletes the newest checkpoint.

    A checkpoint is saved before the evaluation of its step, so the scalars are stored
    next to the checkpoints, in scores.json. The best one so far is deleted with the
    first save after a better one was evaluated.
    """

    def __init__(
        self,
        workdir: epath.Path,
        keep: int = 2,
        best: str | None = None,
        best_is_lowest: bool = True,
        keep_every: int | None = None,
    ):
        """Reads the scores of an earlier attempt.

        Args:
          workdir: of the run.
          keep: how many of the latest checkpoints are kept.
          best: name of an evaluation scalar; None for none.
          best_is_lowest: whether low values of `best` are good.
          keep_every: multiples of this step are kept forever; None for none.

        Raises:
          ValueError: `keep` is less than 1.
          UnreadableFile: the scores, which `best` needs, are damaged.
        """
        if keep < 1:
            raise ValueError(
                f"train.keep must be at least 1: got {keep}, which would delete every "
                "checkpoint; the default is 2."
            )
        self._path = workdir / "scores.json"
        self._keep, self._best, self._is_lowest = keep, best, best_is_lowest
        self._keep_every = keep_every
        self._scores = {} if best is None else _read(self._path)

    def note(
        self, step: int, scalars: Mapping[str, float], steps: Sequence[int]
    ) -> None:
        """Stores the evaluation scalars of a step.

        Args:
          step: that was evaluated.
          scalars: by name.
          steps: of the checkpoints that there are; scores of others are dropped.

        Raises:
          ValueError: `best` is not among the scalars.
        """
        if self._best is None:
            return
        check_best(self._best, scalars)
        known = {s: row for s, row in self._scores.items() if s in steps}
        finite = {n: float(v) for n, v in scalars.items() if math.isfinite(v)}
        self._scores = {**known, step: finite}
        if is_main_process():
            write_json(self._path, self._scores)

    def should_preserve(self, checkpoints, *, context=None) -> list[bool]:
        """Decides for every checkpoint whether it is kept; called by orbax."""
        del context
        steps = sorted(info.step for info in checkpoints)
        kept = set(steps[-self._keep :])
        if self._keep_every:
            kept |= {step for step in steps if step % self._keep_every == 0}
        values = {
            step: self._scores[step][self._best]
            for step in steps
            if self._best in self._scores.get(step, {})
        }
        if values:
            choose = min if self._is_lowest else max
            kept.add(choose(values, key=values.__getitem__))
        return [info.step in kept for info in checkpoints]


def check_best(best: str | None, scalars: Collection[str]) -> None:
    """Raises ValueError unless `best` is None or names a scalar of the evaluation."""
    if best is not None and best not in scalars:
        raise ValueError(
            f"train.best must be a scalar of the evaluation: got {best!r}, it gives "
            f"{', '.join(scalars) or 'none'}; name one of these, or leave train.best "
            "out."
        )


def _read(path: epath.Path) -> dict[int, dict[str, float]]:
    """Reads scores.json; without it, no checkpoint has a score.

    Raises:
      UnreadableFile: it is damaged. To go on without scores would delete the best
        checkpoint.
    """
    if not path.exists():
        return {}
    advice = "must hold the scores of checkpoints; delete it to choose the best again"
    with naming(path, advice):
        rows = read_json(path, rule=advice)
        return {int(step): _scores(row) for step, row in rows.items()}


def _scores(row: Mapping[str, Any]) -> dict[str, float]:
    """Checks the scores of a step."""
    return {name: float(value) for name, value in row.items()}
