# SPDX-License-Identifier: Apache-2.0
"""The training loop, for every task; the page to read first.

shapes -> shardings -> restore or init -> compiled step -> for each step: update,
report, evaluate, checkpoint.

How a run resumes: a checkpoint holds the state and the position in the data. The data
of a step is a function of (seed, step), its randomness is `fold_in(key, step)`. So a
run that was killed and started again with the same command ends with the same bits, on
the same devices, as one that was not.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optax
from jax.sharding import Mesh

from ldm_jax.parallel import sharding
from ldm_jax.parallel.compile import (
    StepByShape,
    compiler_options,
    global_key,
    lower_step,
    on_mesh,
)
from ldm_jax.parallel.hosts import Interrupted, StopSignal
from ldm_jax.training import start
from ldm_jax.training.checkpoints.checkpointer import Checkpointer
from ldm_jax.training.monitoring.divergence import DivergenceGuard
from ldm_jax.training.monitoring.due import Due, divides
from ldm_jax.training.monitoring.goodput import Ledger
from ldm_jax.training.monitoring.histograms import histograms
from ldm_jax.training.monitoring.report import Report
from ldm_jax.training.monitoring.trace import Trace
from ldm_jax.training.monitoring.watchdog import Watchdog
from ldm_jax.training.start import Batches
from ldm_jax.training.state import TrainState, make_state
from ldm_jax.training.step import make_train_step
from ldm_jax.types import Task

# Settings that may change when a run is continued.
MAY_DIFFER = (
    "autoencoder.remat",
    "condition.merges",  # what lies in these files may not
    "condition.vocab",
    "lpips.file",  # its fingerprint may not
    "mesh",
    "text_encoder.directory",  # its fingerprint may not
    "train.allow_data_change",
    "train.checkpoint_every",
    "train.checkpoint_seconds",
    "train.ema_on_host",
    "train.evaluate_every",
    "train.histograms_every",
    "train.keep",
    "train.matmul_precision",
    "train.max_skipped",
    "train.min_shard_mib",
    "train.num_steps",
    "train.profile_steps",
    "train.report_every",
    "train.skip_norm_above",
    "train.step_timeout",
    "train.wandb",
    "unet.attention_backend",
    "unet.remat",
)
# The same with `allow_data_change`.
DATA_SETTINGS = ("batch_size", "held_out", "images", "latents", "seed", "transform")


def train(
    task: Task,
    batches: Batches,
    optimizer: optax.GradientTransformation,
    workdir: str,
    num_steps: int,
    *,
    seed: int = 0,
    mesh: Mesh | None = None,
    min_shard_mib: float = sharding.MIN_SHARD_MIB,
    matmul_precision: str = "",
    init_from: str = "",
    ema_of: Sequence[str] = (),
    max_ema_decay: float = 0.9999,
    ema_on_host: bool = False,
    accumulate: int = 1,
    max_skipped: int = 10,
    skip_norm_above: float | None = None,
    report_every: int = 50,
    histograms_every: int | None = None,
    profile_steps: Sequence[int] = (),
    wandb: str = "",
    evaluate: Callable[[TrainState, int], tuple[Mapping, Mapping]] | None = None,
    evaluate_every: int | None = None,
    checkpoint_every: int | None = 1000,
    checkpoint_seconds: float | None = None,
    keep: int = 2,
    best: str | None = None,
    best_is_lowest: bool = True,
    allow_data_change: bool = False,
    step_timeout: float | None = 1800.0,
    config: Mapping[str, Any] | None = None,
    utilization: Callable[[float], float] | None = None,
    label: str = "train",
) -> TrainState:
    """Trains a task, or continues where an earlier call in `workdir` ended.

    Args:
      task: what is learned.
      batches: from `data.loader.make_batches`, placed by `batch_sharding(mesh)`.
      optimizer: from `make_optimizer`.
      workdir: directory of config.json, checkpoints/ and what `Report` writes; used by
        one run at a time.
      num_steps: the last step.
      seed: of the initial parameters and of the steps' randomness.
      mesh: from `make_mesh`; None takes all devices as copies.
      min_shard_mib: smaller arrays are not split over devices.
      matmul_precision: see `lower_step`.
      init_from: model directory whose parameters a new run begins with wherever they
        fit, see `initial`; initial.json tells which did. "" draws them all.
      ema_of: networks that are averaged, e.g. ("unet",).
      max_ema_decay: the decay that the average reaches.
      ema_on_host: whether the average lies in the host's memory.
      accumulate: parts into which a batch is cut to save memory.
      max_skipped: so many skipped steps in a row end the run; 1 ends it at the first.
        A step is skipped that is not finite, or a spike.
      skip_norm_above: a gradient of a larger norm is a spike; None for none.
      report_every: steps per row of metrics.jsonl.
      histograms_every: steps between histograms of the parameters; None for none.
      profile_steps: (first, last) step of a profiler trace in `workdir`/profile.
      wandb: project of Weights & Biases; "" for none.
      evaluate: (state, step) -> (scalars, {name: uint8 [H, W, 3]}).
      evaluate_every: steps between evaluations; None only evaluates at the end.
      checkpoint_every: steps between checkpoints; None for none but by time.
      checkpoint_seconds: seconds between checkpoints, in addition; None for none.
      keep: how many of the latest checkpoints stay.
      best: evaluation scalar by which one more checkpoint stays.
      best_is_lowest: whether low values of `best` are good.
      allow_data_change: goes on though the data are others than before.
      step_timeout: seconds after which a step, a batch or a checkpoint counts as
        hanging: the process ends with EXIT_HANGS; None waits forever.
      config: the run's settings, JSON-able, written to config.json; another run's
        workdir is refused.
      utilization: steps per second -> share of the devices' peak, for the report.
      label: what the progress line begins with.

    Returns:
      The state after `num_steps` steps, saved.

    Raises:
      Interrupted: SIGTERM or Ctrl-C came; the state is saved.
      Diverged: `max_skipped` steps in a row were skipped.
      ValueError: the checkpoint, the data or the settings are another run's.
      Unusable: another run works in `workdir`, or none of its checkpoints is whole.
      OSError: `workdir` or a checkpoint could not be written.
    """
    mesh = sharding.make_mesh() if mesh is None else mesh
    batch_shapes = on_mesh(batches.shapes(), mesh)
    trace = Trace(profile_steps)
    shapes, make = make_state(
        task,
        optimizer,
        batch_shapes,
        ema_of,
        mesh,
        min_shard_mib,
        ema_on_host,
        start.replacement(init_from, workdir, config, label),
    )
    checkpointer = Checkpointer(
        workdir,
        config,
        may_differ=MAY_DIFFER + (DATA_SETTINGS if allow_data_change else ()),
        defaults=_defaults(),
        keep=keep,
        best=best,
        best_is_lowest=best_is_lowest,
    )
    watchdog = Watchdog(step_timeout)
    ledger = Ledger(on_change=watchdog.enter)
    report = Report(
        workdir,
        num_steps,
        report_every,
        batch_size=next(iter(batch_shapes.values())).shape[0],
        guard=DivergenceGuard(
            workdir, max_skipped, batches.records, checkpointer.newest
        ),
        ledger=ledger,
        label=label,
        utilization=utilization,
        wandb=wandb,
        config=config,
    )
    with checkpointer, report, StopSignal() as stop, watchdog, trace:
        key = global_key(seed, mesh)
        state = start.restore_or_make(
            checkpointer, report, batches, shapes, lambda: make(key), allow_data_change
        )
        first = int(state.step)
        if first >= num_steps:
            return state

        report.say("compiles the step")
        report.begin_steps(first)
        with ledger.phase("compile"):
            frozen = sharding.place(task.frozen, mesh, min_shard_mib)
            step_of = make_train_step(
                task.loss,
                optimizer,
                max_ema_decay,
                accumulate,
                skip_norm_above,
                ema_on_host,
            )
            train_step = StepByShape(
                lambda batch: lower_step(
                    step_of, shapes, frozen, batch, key, matmul_precision
                ).compile(compiler_options(mesh)),
                batch_shapes,
            )
        due = Due(checkpoint_every, checkpoint_seconds, report_every)
        stream = batches.stream(first)
        report.restart_clock(first)
        for step in range(first + 1, num_steps + 1):
            watchdog.step = step
            with ledger.phase("data"):
                batch = next(stream)
            trace.before(step, f"{report.folder}/profile")
            ledger.switch("step")
            state, metrics = train_step(state, frozen, batch, key)
            report.add(step, metrics)
            trace.after(step, metrics)
            if divides(histograms_every, step):
                with ledger.phase("evaluation"):
                    report.histograms(step, histograms(state.params, mesh))

            scalars = {}
            is_last = step == num_steps
            if evaluate and (is_last or divides(evaluate_every, step)):
                report.finish_pending()
                with report.pause(), ledger.phase("evaluation"):
                    scalars, images = evaluate(state, step)
                report.evaluation(step, scalars, images)

            signum = stop.requested(step)
            if is_last or signum or due.now(step, metrics):
                data = {"batches": batches.state(step), "report": report.state()}
                with ledger.phase("checkpoint"):
                    checkpointer.save(state, data, scalars)
            if signum:
                with ledger.phase("checkpoint"):
                    checkpointer.wait()
                report.say(f"stopped and saved at step {step}; run it again to go on")
                raise Interrupted(step, signum)
        with ledger.phase("checkpoint"):
            checkpointer.wait()
    return state


def _defaults() -> dict[str, Any]:
    """Returns the defaults of the settings `train.*`, by dotted name."""
    parameters = inspect.signature(train).parameters.values()
    values = {f"train.{p.name}": p.default for p in parameters}
    return {n: v for n, v in values.items() if v is not inspect.Parameter.empty}
