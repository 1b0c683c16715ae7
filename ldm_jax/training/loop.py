# SPDX-License-Identifier: Apache-2.0
"""The training loop of every task.

Order: shapes -> shardings -> restore or init -> compiled step -> for each step: data,
update, report, checkpoint, evaluate.

A run starts from the first of these that exists: its own newest valid checkpoint; new
parameters, replaced by those of `train.init_from` where they fit; new parameters.

Resuming: a checkpoint holds the state and the position in the data. The data of a step
is a function of (seed, step), and its random key is `fold_in(key, step)`. So a run that
was killed and started again with the same command ends with the same bits, on the same
devices, as an undisturbed run.
"""

from collections.abc import Mapping
from typing import NoReturn

import jax

from ldm_jax.parallel import sharding
from ldm_jax.parallel.compile import (
    StepByShape,
    compiler_options,
    global_key,
    lower_step,
    on_mesh,
)
from ldm_jax.parallel.stopping import Interrupted, StopSignal
from ldm_jax.training import start
from ldm_jax.training.checkpoints.checkpointer import Checkpointer
from ldm_jax.training.monitoring.divergence import DivergenceGuard
from ldm_jax.training.monitoring.due import Due, divides
from ldm_jax.training.monitoring.goodput import Ledger
from ldm_jax.training.monitoring.histograms import histograms
from ldm_jax.training.monitoring.report import Report
from ldm_jax.training.monitoring.trace import Trace
from ldm_jax.training.monitoring.watchdog import Watchdog
from ldm_jax.training.run import Run
from ldm_jax.training.state import TrainState, make_state
from ldm_jax.training.step import make_train_step
from ldm_jax.training.summary import num_records, show, summarize
from ldm_jax.training.utilization import peak_share, training_flops
from ldm_jax.types import Array, PyTree


def train(run: Run, workdir: str) -> TrainState:
    """Trains a run, or resumes it from its newest checkpoint in `workdir`.

    Args:
      run: task, batches, mesh, optimizer, evaluation and options.
      workdir: directory of config.json, checkpoints/ and what `Report` writes; used by
        one run at a time.

    Returns:
      The state after `run.options.num_steps` steps, saved.

    Raises:
      Interrupted: the process received SIGTERM or Ctrl-C; the state is saved.
      Diverged: too many steps in a row were skipped.
      ValueError: the checkpoint, the data or the settings are another run's, or the run
        has no data.
      Unusable: another run uses `workdir`, or all of its checkpoints are damaged.
      OSError: `workdir` or a checkpoint could not be written.
    """
    options, mesh, batches = run.options, run.mesh, run.data()
    batch_shapes = on_mesh(run.batch_shapes, mesh)
    replace = start.make_params_replacement(run, workdir)
    shapes, make = make_state(
        run.task, run.optimizer, batch_shapes, mesh, options, replace
    )
    checkpointer = start.open_checkpoints(run, workdir)
    watchdog, trace = Watchdog(options.step_timeout), Trace(options.profile_steps)
    ledger = Ledger(on_change=watchdog.enter)
    flops = training_flops(run.task, run.batch_shapes)
    report = _open_report(run, workdir, checkpointer, ledger, flops)
    with checkpointer, report, StopSignal() as stop, watchdog, trace:
        report.show(show(summarize(run, flops)))
        key = global_key(run.seed, mesh)
        state = start.restore_or_make(
            run, checkpointer, report, shapes, lambda: make(key)
        )
        first = int(state.step)
        # The run may have been stopped between a checkpoint and its evaluation.
        if not report.has_evaluation(first):
            evaluate_if_due(run, state, first, report, checkpointer)
        if first >= options.num_steps:
            return state

        report.log("compiling the step")
        report.begin_steps(first)
        with ledger.phase("compile"):
            frozen = sharding.place(run.task.frozen, mesh, options.min_shard_mib)
            train_step = compile_step(run, shapes, frozen, batch_shapes, key)
        due = Due(
            options.checkpoint_every, options.checkpoint_seconds, options.report_every
        )
        stream = batches.stream(first)
        report.restart_clock(first)
        for step in range(first + 1, options.num_steps + 1):
            watchdog.step = step
            with ledger.phase("data"):
                batch = next(stream)
            trace.before(step, f"{report.folder}/profile")
            ledger.switch("step")  # ends the phase "start" in the first step
            state, metrics = train_step(state, frozen, batch, key)
            report.add(step, metrics)
            trace.after(step, metrics)
            if divides(options.histograms_every, step):
                with ledger.phase("evaluation"):
                    report.histograms(step, histograms(state.params, mesh))

            signum, is_last = stop.requested(step), step == options.num_steps
            if is_last or signum or due.now(step, metrics):
                data = {"batches": batches.state(step), "report": report.state()}
                with ledger.phase("checkpoint"):
                    checkpointer.save(state, data)
            if signum:
                with ledger.phase("checkpoint"):
                    _stop(step, signum, checkpointer, report)
            evaluate_if_due(run, state, step, report, checkpointer)
        with ledger.phase("checkpoint"):
            checkpointer.wait()
        # A signal in the last evaluation: what follows the run must not begin.
        if signum := stop.requested(options.num_steps + 1):
            _stop(options.num_steps, signum, checkpointer, report)
    return state


def _stop(
    step: int, signum: int, checkpointer: Checkpointer, report: Report
) -> NoReturn:
    """Ends the run after a signal, once the checkpoint of the step is written."""
    checkpointer.wait()
    report.log(f"stopped and saved at step {step}; the same command resumes")
    raise Interrupted(step, signum)


def evaluate_if_due(
    run: Run, state: TrainState, step: int, report: Report, checkpointer: Checkpointer
) -> None:
    """Evaluates the state of a step if an evaluation is due.

    It is called after the step was saved, so an evaluation that fails loses no step.
    """
    options = run.options
    is_due = step == options.num_steps or divides(options.evaluate_every, step)
    if options.evaluate_early and step < (options.evaluate_every or options.num_steps):
        is_due |= step.bit_count() == 1  # a power of two
    if run.evaluate is None or step == 0 or not is_due:
        return
    report.finish_pending()
    with report.pause():
        scalars, images = run.evaluate(state, step)
    report.evaluation(step, scalars, images)
    checkpointer.note(step, scalars)


def compile_step(
    run: Run,
    shapes: TrainState,
    frozen: PyTree,
    batch_shapes: Mapping[str, jax.ShapeDtypeStruct],
    key: Array,
) -> StepByShape:
    """Compiles the step of a run, for batches of this shape first.

    Args:
      run: the run.
      shapes: TrainState of jax.ShapeDtypeStruct with shardings.
      frozen: `run.task.frozen`, placed.
      batch_shapes: field -> jax.ShapeDtypeStruct with sharding.
      key: the run's random key, on the mesh.
    """
    xla = compiler_options(run.mesh)
    return StepByShape(
        lambda batch: lower(run, shapes, frozen, batch, key).compile(xla), batch_shapes
    )


def lower(
    run: Run,
    shapes: TrainState,
    frozen: PyTree,
    batch_shapes: Mapping[str, jax.ShapeDtypeStruct],
    key: Array | jax.ShapeDtypeStruct,
) -> jax.stages.Lowered:
    """Lowers the step of a run; arguments as of `compile_step`.

    `frozen` and `key` may be shapes with shardings, as `ldm-jax plan` passes them.
    """
    step = make_train_step(run.task.loss, run.optimizer, run.options)
    precision = run.options.matmul_precision
    return lower_step(step, shapes, frozen, batch_shapes, key, precision)


def _open_report(
    run: Run, workdir: str, checkpointer: Checkpointer, ledger: Ledger, flops: int
) -> Report:
    """Makes the report of a run, and what ends the run when its loss diverges."""
    options = run.options
    guard = DivergenceGuard(
        workdir, options.max_skipped, run.data().records, checkpointer.newest
    )
    return Report(
        workdir,
        options.num_steps,
        options.report_every,
        batch_size=run.batch_size,
        num_records=num_records(run),
        guard=guard,
        ledger=ledger,
        label=run.label,
        utilization=peak_share(flops, run.mesh),
        wandb=options.wandb,
        config=run.config,
    )
