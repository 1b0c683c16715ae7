# SPDX-License-Identifier: Apache-2.0
"""Trains a first stage, a diffusion model or a classifier from its config."""

from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from ldm_jax.commands import next_steps
from ldm_jax.experiment.chain import naming_experiment
from ldm_jax.experiment.model_directory import make_model
from ldm_jax.experiment.prepare import prepare
from ldm_jax.experiment.stored_config import read_config
from ldm_jax.files.outputs import check_holds_checkpoints, check_writable
from ldm_jax.files.paths import resolve
from ldm_jax.parallel.hosts import in_main_process
from ldm_jax.training import loop, start
from ldm_jax.training.monitoring.metric_rows import formatted, read_rows
from ldm_jax.training.state import TrainState
from ldm_jax.training.summary import show, summarize
from ldm_jax.training.utilization import training_flops


def train_config(config: ConfigDict, workdir: str) -> TrainState:
    """Trains the model of a config, or resumes the run in `workdir`.

    Args:
      config: of one experiment, see `experiment.config.schema.SECTIONS`.
      workdir: becomes a model directory.

    Returns:
      The state after the last step.

    Raises:
      ValueError: the config, the data or the directory do not fit.
    """
    check_holds_checkpoints(workdir, "--workdir")
    in_main_process(lambda: check_writable(workdir, "--workdir"))
    return loop.train(prepare(config, workdir), workdir)


def train_experiment(name: str, config: ConfigDict, workdir: str) -> TrainState:
    """Trains an experiment of a quickstart's config, as `train_config` does.

    Args:
      name: "first_stage" or "diffusion"; errors name the fields with it.
      config, workdir: of `train_config`.
    """
    with naming_experiment(name):
        return train_config(config, workdir)


def dry_run(config: ConfigDict) -> str:
    """Describes the run that `train_config` would start: all settings and a summary.

    The data are opened and the step is traced, so what does not fit is refused as in
    training. Nothing is written.

    Raises:
      ValueError: as `train_config`, but for the directory.
    """
    run = prepare(config)
    start.check_first_step(run)
    settings = "\n".join(flat_settings(run.config or {}))
    summary = show(summarize(run, training_flops(run.task, run.batch_shapes)))
    return f"{settings}\n\n{summary}\nnothing was trained (--dry-run)"


def flat_settings(settings: Mapping[str, Any], name: str = "config") -> Iterator[str]:
    """Yields a line for every setting: "config.train.num_steps = 900"."""
    for field, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flat_settings(value, f"{name}.{field}")
        else:
            yield f"{name}.{field} = {value!r}"


def closing_summary(workdir: str) -> str:
    """Describes the result of a run: figures, pictures and the next commands."""
    lines = {"model": workdir}
    folder = resolve(workdir)
    if rows := read_rows(folder / "evaluation.jsonl"):
        figures = {name: value for name, value in rows[-1].items() if name != "step"}
        lines["evaluation"] = ", ".join(
            f"{n} {formatted(v)}" for n, v in figures.items()
        )
    if pictures := sorted((folder / "images").glob("*.png")):
        lines["pictures"] = str(pictures[-1])
    if (folder / "report.html").exists():
        lines["report"] = str(folder / "report.html")
    lines["curves"] = f"tensorboard --logdir {workdir}  (pip install tensorboard)"
    model = make_model(read_config(workdir))
    lines["next"] = "\n".join(next_steps.after(model, workdir))
    return show({name: text for name, text in lines.items() if text})
