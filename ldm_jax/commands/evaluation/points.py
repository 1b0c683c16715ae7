# SPDX-License-Identifier: Apache-2.0
"""Lists the evaluations of a model: checkpoints, with numbers of sampling steps."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple


class Point(NamedTuple):
    """One evaluation of a model: a checkpoint and a number of steps.

    Attributes:
      out: directory of its samples and results.
      step: of the checkpoint; None takes the newest.
      num_steps: of the sampler; None takes the model's.
    """

    out: str
    step: int | None = None
    num_steps: int | None = None


def points_of(
    out: str, steps: Sequence[int] = (), nums_steps: Sequence[int] = ()
) -> list[Point]:
    """Lists the evaluations of several checkpoints, with several numbers of steps each.

    Args:
      out: directory of the one evaluation, or of one sub-folder for each:
        "step500", "sampled10" or "step500-sampled10".
      steps: of the checkpoints; () takes the newest.
      nums_steps: of the sampler; () takes the model's.
    """
    points = []
    for step, num_steps in itertools.product(steps or [None], nums_steps or [None]):
        names = [f"step{step}"] if len(steps) > 1 else []
        names += [f"sampled{num_steps}"] if len(nums_steps) > 1 else []
        folder = "/".join([out, "-".join(names)]) if names else out
        points.append(Point(folder, step, num_steps))
    return points
