# SPDX-License-Identifier: Apache-2.0
"""The training loop, for every task; the page to read first.

shapes -> shardings -> restore or init -> compiled step -> for each step: update,
report, evaluate, checkpoint.

How a run resumes: a checkpoint holds the state and the position in the data. The data
of a step is a function of (seed, step), its randomness is `fold_in(key, step)`. So a
run that was killed and started again with the same command ends with the same bits, on
the same devices, as one that was not.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import optax
from jax.sharding import Mesh

from ldm_jax.training import sharding
from ldm_jax.training.checkpoint import Checkpointer
from ldm_jax.training.hosts import Interrupted, StopSignal, agreed
from ldm_jax.training.report import Report
from ldm_jax.training.state import TrainState, make_state
from ldm_jax.training.step import make_train_step
from ldm_jax.types import Task

# Settings that may change when a run is continued.
MAY_DIFFER = (
    "mesh",
    "train.num_steps",
    "train.report_every",
    "train.evaluate_every",
    "train.checkpoint_every",
    "train.checkpoint_seconds",
    "train.keep",
    "train.max_skipped",
    "train.min_shard_mib",
)


class Batches(Protocol):
    """Where batches come from: the rows of a step are a function of (seed, step)."""

    def shapes(self) -> Mapping[str, jax.ShapeDtypeStruct]:
        """Returns the global shape and dtype of every field."""

    def stream(self, first_step: int):
        """Iterates over the batches of steps first_step, first_step + 1, ..."""

    def state(self, step: int) -> dict[str, Any]:
        """Returns a small JSON dict that names the data and the position in it."""

    def check(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError, naming what changed, if `state` is of other data."""


def train(
    task: Task,
    batches: Batches,
    optimizer: optax.GradientTransformation,
    workdir: str,
    num_steps: int,
    *,
    seed: int = 0,
    mesh: Mesh | None = None,
    min_shard_mib: float = 4.0,
    ema_of: Sequence[str] = (),
    max_ema_decay: float = 0.9999,
    accumulate: int = 1,
    max_skipped: int = 10,
    report_every: int = 50,
    evaluate: Callable[[TrainState, int], tuple[Mapping, Mapping]] | None = None,
    evaluate_every: int | None = None,
    checkpoint_every: int | None = 1000,
    checkpoint_seconds: float | None = None,
    keep: int = 2,
    best: str | None = None,
    best_is_lowest: bool = True,
    config: Mapping[str, Any] | None = None,
    may_differ: Sequence[str] = MAY_DIFFER,
    label: str = "train",
) -> TrainState:
    """Trains a task, or continues where an earlier call in `workdir` ended.

    Args:
      task: what is learned.
      batches: from `data.loader.make_batches`, placed by `batch_sharding(mesh)`.
      optimizer: from `make_optimizer`.
      workdir: directory of config.json, checkpoints/, metrics.jsonl, evaluation.jsonl,
        images/ and tensorboard/; used by one run at a time.
      num_steps: the last step.
      seed: of the initial parameters and of the steps' randomness.
      mesh: from `make_mesh`; None takes all devices as copies.
      min_shard_mib: smaller arrays are not split over devices.
      ema_of: networks that are averaged, e.g. ("unet",).
      max_ema_decay: the decay that the average reaches.
      accumulate: parts into which a batch is cut to save memory.
      max_skipped: so many steps in a row that are not finite end the run.
      report_every: steps per row of metrics.jsonl.
      evaluate: (state, step) -> (scalars, {name: uint8 [H, W, 3]}).
      evaluate_every: steps between evaluations; None only evaluates at the end.
      checkpoint_every: steps between checkpoints; None for none but by time.
      checkpoint_seconds: seconds between checkpoints, in addition; None for none.
      keep: how many of the latest checkpoints stay.
      best: evaluation scalar by which one more checkpoint stays.
      best_is_lowest: whether low values of `best` are good.
      config: the run's settings, JSON-able, written to config.json; another run's
        workdir is refused.
      may_differ: settings that may change when the run is continued.
      label: what the progress line begins with.

    Returns:
      The state after `num_steps` steps, saved.

    Raises:
      Interrupted: SIGTERM or Ctrl-C came; the state is saved.
      Diverged: `max_skipped` steps in a row were not finite.
      ValueError: the checkpoint, the data or the settings are another run's.
      RuntimeError: another run works in `workdir`.
      OSError: a checkpoint could not be written.
    """
    mesh = sharding.make_mesh() if mesh is None else mesh
    batch_shapes = _on_mesh(batches.shapes(), mesh)
    shapes, make = make_state(
        task, optimizer, batch_shapes, ema_of, mesh, min_shard_mib
    )
    checkpointer = Checkpointer(
        workdir,
        config,
        may_differ=may_differ,
        keep=keep,
        best=best,
        best_is_lowest=best_is_lowest,
    )
    report = Report(
        workdir,
        num_steps,
        report_every,
        batch_size=next(iter(batch_shapes.values())).shape[0],
        max_skipped=max_skipped,
        label=label,
    )
    with checkpointer, report, StopSignal() as stop:
        key = _global_key(seed, mesh)
        state = _restore_or_make(checkpointer, report, batches, shapes, make, key)
        first = int(state.step)
        if first >= num_steps:
            return state

        report.say("compiles the step")
        frozen = sharding.place(task.frozen, mesh, min_shard_mib)
        train_step = make_train_step(task.loss, optimizer, max_ema_decay, accumulate)
        train_step = _compile(train_step, shapes, frozen, batch_shapes, key)
        due = _Due(checkpoint_every, checkpoint_seconds, report_every)
        stream = batches.stream(first)
        report.restart_clock(first)
        for step in range(first + 1, num_steps + 1):
            state, metrics = train_step(state, frozen, next(stream), key)
            report.add(step, metrics)

            scalars = {}
            is_last = step == num_steps
            if evaluate and (is_last or _divides(evaluate_every, step)):
                report.finish_pending()
                with report.pause():
                    scalars, images = evaluate(state, step)
                report.evaluation(step, scalars, images)

            signum = stop.requested(step)
            if is_last or signum or due.now(step):
                data = {"batches": batches.state(step), "report": report.state()}
                checkpointer.save(state, data, scalars)
            if signum:
                checkpointer.wait()
                report.say(f"stopped and saved at step {step}; run it again to go on")
                raise Interrupted(step, signum)
        checkpointer.wait()
    return state


def _on_mesh(shapes: Mapping[str, jax.ShapeDtypeStruct], mesh: Mesh):
    """Gives the fields of a batch their sharding, or checks the one they have."""
    wanted = sharding.batch_sharding(mesh)
    for name, x in shapes.items():
        given = x.sharding
        if given is not None and not given.is_equivalent_to(wanted, len(x.shape)):
            raise ValueError(
                f"batches must be split over the mesh of the run: {name} has {given}, "
                f"not {wanted}; make them with sharding=batch_sharding(mesh)."
            )
    return {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=wanted)
        for name, x in shapes.items()
    }


def _restore_or_make(checkpointer, report, batches, shapes, make, key) -> TrainState:
    """Returns the state to go on from; puts report and data in the same place."""
    restored = checkpointer.restore(shapes)
    if restored is None:
        report.start(0)
        report.say("makes the parameters")
        return make(key)
    state, data = restored
    batches.check(data["batches"])
    report.start(int(state.step), data["report"])
    return state


def _divides(every: int | None, step: int) -> bool:
    return every is not None and step % every == 0


class _Due:
    """Tells when a checkpoint is due, by steps or by time."""

    def __init__(self, every: int | None, seconds: float | None, check_every: int):
        self._every, self._seconds, self._check_every = every, seconds, check_every
        self._since = time.monotonic()

    def now(self, step: int) -> bool:
        is_due = _divides(self._every, step)
        # All processes must agree on the time, which costs a message: not every step.
        if self._seconds is not None and (
            jax.process_count() == 1 or step % self._check_every == 0
        ):
            is_due |= agreed(time.monotonic() - self._since >= self._seconds)
        if is_due:
            self._since = time.monotonic()
        return is_due


def _global_key(seed: int, mesh: Mesh) -> jax.Array:
    """Makes the run's random key on every device of the mesh."""
    make = jax.jit(jax.random.key, out_shardings=sharding.replicated(mesh))
    return make(seed)


def _compile(train_step, shapes, frozen, batch_shapes, key):
    """Compiles the step once, ahead of time; the state's memory is used again."""
    placed = jax.tree.map(lambda x: x.sharding, shapes)
    step = jax.jit(train_step, donate_argnums=0, out_shardings=(placed, key.sharding))
    return step.lower(shapes, frozen, batch_shapes, key).compile()
