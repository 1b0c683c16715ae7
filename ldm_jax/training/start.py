# SPDX-License-Identifier: Apache-2.0
"""How a run begins: with its own checkpoint, another model's parameters, or none."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
from absl import logging

from ldm_jax.parallel.hosts import is_main_process
from ldm_jax.training.checkpoints.checkpointer import Checkpointer, load_params
from ldm_jax.training.checkpoints.differences import differences, shorten
from ldm_jax.training.checkpoints.workdir import absolute
from ldm_jax.training.initial import take_params
from ldm_jax.training.monitoring.report import Report
from ldm_jax.training.state import TrainState
from ldm_jax.types import PyTree

# Settings that say what a model computes: where they differ, the parameters that are
# taken may mean something else (another schedule, another scale of the latents).
OF_THE_MODEL = ("autoencoder", "condition", "latents.scale", "prediction", "schedule")
OF_THE_MODEL += ("unet",)


class Batches(Protocol):
    """Where batches come from: the rows of a step are a function of (seed, step)."""

    def shapes(self) -> Mapping[str, jax.ShapeDtypeStruct]:
        """Returns the global shape and dtype of every field."""
        ...

    def stream(self, first_step: int):
        """Iterates over the batches of steps first_step, first_step + 1, ..."""

    def records(self, step: int) -> list:
        """Names the records of a step's batch, JSON-able, in their order."""
        ...

    def state(self, step: int) -> dict[str, Any]:
        """Returns a small JSON dict that names the data and the position in it."""
        ...

    def check(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError, naming what changed, if `state` is of other data."""


def restore_or_make(
    checkpointer: Checkpointer,
    report: Report,
    batches: Batches,
    shapes: TrainState,
    make: Callable[[], TrainState],
    allow_data_change: bool = False,
) -> TrainState:
    """Returns the state to go on from; puts report and data in the same place.

    Raises:
      ValueError: the checkpoint is of another model, or of other data.
    """
    restored = checkpointer.restore(shapes)
    if restored is None:
        report.start(0)
        report.say("makes the parameters")
        return make()
    state, data = restored
    try:
        batches.check(data["batches"])
    except ValueError as error:
        if not allow_data_change:
            raise ValueError(
                f"{error} Or go on with these data: train.allow_data_change=True."
            ) from error
        logging.warning("goes on with other data (allow_data_change): %s", error)
    report.start(int(state.step), data["report"])
    return state


def replacement(
    source: str, workdir: str, config: Mapping[str, Any] | None, label: str
) -> Callable[[PyTree], PyTree] | None:
    """Returns the function that replaces drawn parameters by those of `source`.

    It writes what became of each to initial.json in `workdir`, and a summary to the
    terminal. Averaged parameters are taken where there are some; the optimizer, the
    average and running statistics begin anew.

    Args:
      source: a model directory; "" for none.
      workdir: of the new run.
      config: the new run's settings, compared with those of `source`.
      label: what lines on the terminal begin with.
    """
    if not source:
        return None

    def replace(params):
        params, taken = take_params(params, load_params(source), source)
        path = absolute(source) / "config.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        after = json.loads(json.dumps(dict(config or {})))
        both = (before, after) if before and after else ({}, {})
        settings = [
            line
            for name, line in differences(*both)
            if any((name + ".").startswith(model + ".") for model in OF_THE_MODEL)
        ]
        if is_main_process():
            print(f"{label}: begins with {source}: {taken.summary()}", flush=True)
            if settings:
                print(f"{label}: its settings differ:\n{shorten(settings)}", flush=True)
            told = {"source": str(source), "settings": settings, **vars(taken)}
            lines = json.dumps(told, indent=1) + "\n"
            (absolute(workdir) / "initial.json").write_text(lines)
        return params

    return replace
