# SPDX-License-Identifier: Apache-2.0
"""Starts a run: from its own checkpoint, another model's parameters, or none."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import jax
from absl import logging

from ldm_jax.files.formats.structured import read_json
from ldm_jax.files.paths import printable_lines, resolve
from ldm_jax.files.writing import write_json
from ldm_jax.models.attention import attention
from ldm_jax.parallel.hosts import is_main_process
from ldm_jax.training.checkpoints.checkpointer import Checkpointer
from ldm_jax.training.checkpoints.differences import differences, shorten
from ldm_jax.training.checkpoints.params import load_params
from ldm_jax.training.checkpoints.settings import Settings
from ldm_jax.training.initial import take_params
from ldm_jax.training.monitoring.boards import import_wandb
from ldm_jax.training.monitoring.report import Report
from ldm_jax.training.run import Run
from ldm_jax.training.state import TrainState, make_state
from ldm_jax.training.step import make_train_step
from ldm_jax.types import PyTree


def open_checkpoints(run: Run, workdir: str) -> Checkpointer:
    """Opens the checkpoints of a run; errors as for `Checkpointer`."""
    options, settings = run.options, None
    if run.config is not None:
        defaults = {
            f"train.{field.name}": field.default
            for field in dataclasses.fields(options)
            if field.default is not dataclasses.MISSING
        }
        settings = Settings(
            run.config, run.may_change, options.allowed_changes, defaults
        )
    return Checkpointer(
        workdir,
        settings,
        keep=options.keep,
        best=options.best,
        best_is_lowest=options.best_is_lowest,
        keep_every=options.keep_every,
    )


def check_first_step(run: Run) -> None:
    """Traces a run up to its first step, so that errors come before any work.

    Reads the model of `train.init_from`, if one is named; writes nothing.

    Raises:
      ValueError: options do not fit the networks, the batch or what is installed.
      MissingFile: there is no model in `train.init_from`.
    """
    options = run.options
    if options.wandb:
        import_wandb(options.wandb)
    shapes, _ = make_state(run.task, run.optimizer, run.batch_shapes, run.mesh, options)
    if options.init_from:
        take_params(shapes.params, load_params(options.init_from), options.init_from)
    step = make_train_step(run.task.loss, run.optimizer, options)
    frozen = jax.eval_shape(lambda: run.task.frozen)
    with attention.portable():
        jax.eval_shape(step, shapes, frozen, run.batch_shapes, jax.random.key(0))


def restore_or_make(
    run: Run,
    checkpointer: Checkpointer,
    report: Report,
    shapes: TrainState,
    make: Callable[[], TrainState],
) -> TrainState:
    """Returns the state to resume from; puts report and data in the same place.

    Raises:
      ValueError: the checkpoint is of another model, or of other data.
    """
    restored = checkpointer.restore(shapes)
    if restored is None:
        report.start(0)
        report.log("initializing the parameters")
        return make()
    state, data = restored
    try:
        run.data().check(data["batches"])
    except ValueError as error:
        if not run.options.allow_data_change:
            raise ValueError(
                f"{error} To resume with these data, set train.allow_data_change=True."
            ) from error
        logging.warning("resumes with other data (allow_data_change): %s", error)
    report.start(int(state.step), data["report"])
    return state


def make_params_replacement(
    run: Run, workdir: str
) -> Callable[[PyTree], PyTree] | None:
    """Makes the function that replaces drawn parameters by another model's.

    It writes what happened to each to initial.json in `workdir`, and a summary to the
    terminal. Averaged parameters are taken where there are some; the optimizer, the
    average and running statistics start from scratch.

    Returns:
      The function; None where `run.options.init_from` names no model directory.
    """
    source = run.options.init_from
    if not source:
        return None

    def replace(params):
        params, taken = take_params(params, load_params(source), source)
        settings = _model_differences(run, source)
        if is_main_process():
            text = f"{run.label}: starts from {source}: {taken.summary()}"
            print(printable_lines(text), flush=True)
            if settings:
                lines = shorten(settings)
                text = f"{run.label}: its settings differ:\n{lines}"
                print(printable_lines(text), flush=True)
            content = {"source": str(source), "settings": settings, **vars(taken)}
            write_json(resolve(workdir) / "initial.json", content, indent=1)
        return params

    return replace


def _model_differences(run: Run, source: str) -> list[str]:
    """Lists the settings of another model that compute something else than the run's.

    Where they differ, the parameters may mean something else: of another schedule, say,
    or another scale of the latents.
    """
    path = resolve(source) / "config.json"
    if not path.exists() or not run.config:
        return []
    before: dict[str, Any] = read_json(path)
    now = json.loads(json.dumps(dict(run.config)))
    return [line for name, line in differences(before, now) if run.defines_model(name)]
