# SPDX-License-Identifier: Apache-2.0
"""Summarizes a run before it starts: its model, its data and its cost."""

import math

import jax

from ldm_jax.training.estimate import CONDITIONS, duration, training_seconds
from ldm_jax.training.learning_rate import sample_schedule
from ldm_jax.training.run import Run
from ldm_jax.types import PyTree


def summarize(run: Run, step_flops: int) -> dict[str, str]:
    """Describes a run that has not started: name of a line -> text.

    Args:
      run: the run.
      step_flops: of a batch, from `training_flops`.
    """
    params, _ = run.task.shapes(run.batch_shapes)
    flops = step_flops / run.batch_size
    lines = {"trains": run.label, **run.description}
    lines["parameters"] = ", ".join(
        f"{name} {num_params(network):,}" for name, network in params.items()
    )
    lines["state"] = f"{_state_bytes(run, params) / 2**20:,.1f} MiB in all"
    lines["FLOPs"] = f"{flops / 1e9:,.3g} G per image, forward and backward"
    lines["steps"] = f"{run.options.num_steps:,} of {run.batch_size} images"
    if records := num_records(run):
        epochs = run.options.num_steps * run.batch_size / records
        lines["steps"] += f": {epochs:,.4g} epochs"
    lines["rate"] = _learning_rate(run)
    mesh = ", ".join(f"{name} {size}" for name, size in run.mesh.shape.items())
    device = run.mesh.devices.flat[0]
    lines["devices"] = f"{run.mesh.size} {device.device_kind} (mesh: {mesh})"
    lines["estimate"] = f"about {duration(training_seconds(run, flops))}, {CONDITIONS}"
    return {name: text for name, text in lines.items() if text}


def _learning_rate(run: Run) -> str:
    """Describes the learning rate: at the first step, where it is highest, at last."""
    rate = run.optimizer.rates["learning_rate"]
    counts, values = sample_schedule(rate, run.options.num_steps)
    if (values == values[0]).all():
        return f"learning rate {values[0]:.3g}"
    highest = int(values.argmax())
    points = dict.fromkeys([0, highest, len(counts) - 1])
    return "learning rate " + ", ".join(
        f"{values[i]:.3g} at step {counts[i] + 1:,}" for i in points
    )


def show(lines: dict[str, str]) -> str:
    """Formats a summary as lines of text; further lines of a text are indented."""
    indent = "\n" + " " * 15
    shown = {name: text.replace("\n", indent) for name, text in lines.items()}
    return "\n".join(f"  {name:<12} {text}" for name, text in shown.items())


def num_records(run: Run) -> int | None:
    """Returns how many records the data of a run have; None where it is unknown."""
    return run.batches.state(0).get("num_records") if run.batches else None


def num_params(network: PyTree) -> int:
    """Counts the numbers of a network, from arrays or their shapes."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(network))


def _state_bytes(run: Run, params: PyTree) -> int:
    """Counts the bytes of parameters, moments and average, over all devices."""
    averaged = {n: params[n] for n in run.options.ema_of if n in params}
    moments = jax.eval_shape(run.optimizer.init, params)
    arrays = jax.tree.leaves((params, averaged, moments))
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in arrays)
