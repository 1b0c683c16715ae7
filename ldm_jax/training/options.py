# SPDX-License-Identifier: Apache-2.0
"""Options of the training loop; the section `train` of a config."""

import dataclasses
import math
from typing import Any

from ldm_jax.files.value_types import check_type
from ldm_jax.parallel.compile import MATMUL_PRECISIONS
from ldm_jax.parallel.sharding import MIN_SHARD_MIB

# Steps are counted in int32.
MAX_STEPS = 2**31 - 1


def option(
    default: Any = dataclasses.MISSING,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    may_change: bool = False,
) -> Any:
    """Declares an option: its default, its range, whether a resumed run may differ."""
    metadata = dict(
        at_least=at_least, above=above, at_most=at_most, may_change=may_change
    )
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """Options of the training loop.

    Attributes:
      num_steps: the last step.
      init_from: model directory whose parameters a new run starts with wherever they
        fit, see `initial`; initial.json lists which did. "" draws them all.
      ema_of: networks that are averaged, e.g. ("unet",).
      max_ema_decay: the decay that the average reaches.
      ema_on_host: whether the average is stored in the host's memory.
      accumulate: parts into which a batch is cut to save memory.
      max_skipped: this many skipped steps in a row end the run; 1 ends it at the first.
        A step is skipped where its loss or gradient is not finite, or is a spike.
      skip_norm_above: a gradient of a larger norm is a spike; None for none.
      min_shard_mib: smaller arrays are not split over devices.
      matmul_precision: of float32 products, see `parallel.compile.lower_step`.
      report_every: steps per row of metrics.jsonl.
      histograms_every: steps between histograms of the parameters; None for none.
      profile_steps: (first, last) step of a profiler trace in WORKDIR/profile; () for
        none.
      wandb: project of Weights & Biases; "" for none.
      evaluate_every: steps between evaluations; None only evaluates at the end.
      evaluate_early: whether the steps 1, 2, 4, 8, ... before the first of these are
        evaluated as well, whose pictures show early that something is wrong.
      checkpoint_every: steps between checkpoints; None for none but by time.
      checkpoint_seconds: seconds between checkpoints, in addition; None for none.
      keep: how many of the latest checkpoints are kept.
      keep_every: multiples of this step are kept as well, for later evaluation; a
        multiple of `checkpoint_every`; None for none.
      best: evaluation scalar by which one more checkpoint is kept.
      best_is_lowest: whether low values of `best` are good.
      step_timeout: seconds after which a step, a batch or a checkpoint counts as
        hanging and the process ends with EXIT_HANGS; None waits forever.
      allow_data_change: resume although the data differ from before.
      allow_optimizer_change: resume although the settings of the optimizer differ; its
        moments and the number of steps done are kept.

    Raises:
      ValueError: a value is of another type, or out of range.
    """

    num_steps: int = option(at_least=1, at_most=MAX_STEPS, may_change=True)
    init_from: str = option("")
    ema_of: tuple[str, ...] = option(())
    max_ema_decay: float = option(0.9999, at_least=0, at_most=1)
    ema_on_host: bool = option(False, may_change=True)
    accumulate: int = option(1, at_least=1)
    max_skipped: int = option(10, at_least=1, may_change=True)
    skip_norm_above: float | None = option(None, above=0, may_change=True)
    min_shard_mib: float = option(MIN_SHARD_MIB, at_least=0, may_change=True)
    matmul_precision: str = option("", may_change=True)
    report_every: int = option(50, at_least=1, may_change=True)
    histograms_every: int | None = option(None, at_least=1, may_change=True)
    profile_steps: tuple[int, ...] = option((), may_change=True)
    wandb: str = option("", may_change=True)
    evaluate_every: int | None = option(None, at_least=1, may_change=True)
    evaluate_early: bool = option(False, may_change=True)
    checkpoint_every: int | None = option(1000, at_least=1, may_change=True)
    checkpoint_seconds: float | None = option(None, at_least=0, may_change=True)
    keep: int = option(2, at_least=1, may_change=True)
    keep_every: int | None = option(None, at_least=1, may_change=True)
    best: str | None = option(None, may_change=True)
    best_is_lowest: bool = option(True, may_change=True)
    step_timeout: float | None = option(1800.0, above=0, may_change=True)
    allow_data_change: bool = option(False, may_change=True)
    allow_optimizer_change: bool = option(False, may_change=True)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))
        first_and_last = self.profile_steps
        if first_and_last and not (
            len(first_and_last) == 2 and 1 <= first_and_last[0] <= first_and_last[1]
        ):
            raise ValueError(
                "train.profile_steps must be (first, last), counted from 1: got "
                f"{tuple(first_and_last)}; (20, 24) traces five steps, () none."
            )
        if first_and_last and first_and_last[1] > self.num_steps:
            raise ValueError(
                "train.profile_steps must be steps of the run: got "
                f"{tuple(first_and_last)}, and train.num_steps is {self.num_steps}; "
                "choose earlier steps, or () for no trace."
            )
        every = self.checkpoint_every
        if self.keep_every and every and self.keep_every % every:
            raise ValueError(
                "train.keep_every must be a multiple of train.checkpoint_every: got "
                f"{self.keep_every} and {every}, so that most of the steps to keep "
                "have no checkpoint; change one of the two."
            )
        if self.matmul_precision not in MATMUL_PRECISIONS:
            raise ValueError(
                "train.matmul_precision must be one of "
                f'{", ".join(MATMUL_PRECISIONS[1:])} or "": got '
                f'{self.matmul_precision!r}; the default is "", which leaves it to '
                "the devices."
            )

    @property
    def allowed_changes(self) -> frozenset[str]:
        """Names of the options `allow_*_change` that are set."""
        names = ("allow_data_change", "allow_optimizer_change")
        return frozenset(name for name in names if getattr(self, name))


def _check(field: dataclasses.Field, value: Any) -> None:
    """Raises unless a value is of its field's type and in its range."""
    name = f"train.{field.name}"
    way_out = (
        f"the default is {field.default!r}"
        if field.default is not dataclasses.MISSING
        else "set it to the number of steps to train for"
    )
    check_type(name, value, field.type, way_out)
    if isinstance(value, int | float) and not isinstance(value, bool):
        _check_range(field, value, way_out)


def _check_range(field: dataclasses.Field, value: Any, way_out: str) -> None:
    name = f"train.{field.name}"
    low, above, high = (field.metadata[n] for n in ("at_least", "above", "at_most"))
    rules = [
        (low is None or value >= low, f"at least {low}"),
        (above is None or value > above, f"above {above}"),
        (high is None or value <= high, f"at most {high}"),
        (math.isfinite(value), "finite"),
    ]
    for holds, rule in rules:
        if not holds:
            raise ValueError(f"{name} must be {rule}: got {value!r}; {way_out}.")
