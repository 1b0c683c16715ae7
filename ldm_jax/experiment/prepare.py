# SPDX-License-Identifier: Apache-2.0
"""Builds a run that is ready to be trained, or planned, from a config.

Order: check the config -> fill in its open fields (`resolve`) -> make model, task, data
and evaluation (`builders`) -> make options, optimizer, mesh and batches -> copy the
files that the model needs into the working directory. Code outside of this folder
receives objects and reads no config.
"""

from collections.abc import Sequence

from ml_collections import ConfigDict

from ldm_jax.data.images.image_sets import local_folders
from ldm_jax.experiment.builders.classifier import build_classifier
from ldm_jax.experiment.builders.diffusion import build_diffusion
from ldm_jax.experiment.builders.first_stage import build_first_stage
from ldm_jax.experiment.config.resuming import defines_model, may_change
from ldm_jax.experiment.config.schema import check_config
from ldm_jax.experiment.resolve import resolve_config
from ldm_jax.experiment.vocabulary import stored_form
from ldm_jax.files.outputs import check_outside
from ldm_jax.parallel import sharding
from ldm_jax.training.checkpoints.retention import check_best
from ldm_jax.training.optimizer import make_optimizer
from ldm_jax.training.options import LoopOptions
from ldm_jax.training.run import Run
from ldm_jax.types import Device

BUILDERS = dict(
    first_stage=build_first_stage,
    latent_diffusion=build_diffusion,
    classifier=build_classifier,
)


def prepare(
    config: ConfigDict,
    workdir: str = "",
    *,
    abstract: bool = False,
    devices: Sequence[Device] | None = None,
) -> Run:
    """Builds a run from a config.

    Args:
      config: of one experiment, see `schema.SECTIONS`; stays as it is.
      workdir: gets copies of the first stage, the text encoder and the vocabulary that
        the run reads, because it becomes a model directory; "" writes nothing.
      abstract: makes a run of shapes, for planning: no data and no weights are read and
        nothing is written; parameters that are not trained are zeros without memory.
      devices: of the mesh; None takes all.

    Returns:
      The run, with a config without open fields.

    Raises:
      ValueError: the sections contradict each other, or the data or weights that they
        name are missing or do not fit.
    """
    check_config(config)
    if config.task not in BUILDERS:
        raise ValueError(
            f"config.task must be {' or '.join(BUILDERS)} to be trained: got "
            f"{config.task!r}."
        )
    if workdir:
        dataset = config.get("images", {}).get("dataset") or ""
        check_outside(workdir, local_folders(dataset), "--workdir")
    config, inputs = resolve_config(config, abstract=abstract)
    parts = BUILDERS[config.task](config, inputs, abstract)
    options = LoopOptions(**config.train)
    if not abstract:
        check_best(options.best, parts.evaluate.figures if parts.evaluate else ())
    optimizer = make_optimizer(**config.optimizer, run_steps=options.num_steps)
    mesh = sharding.make_mesh(**config.mesh, devices=devices)
    batches = None
    if parts.examples is not None:
        batches = parts.examples.batches(config.batch_size, mesh, config.seed)
        if workdir:
            inputs.copy_to(workdir)
    return Run(
        model=parts.model,
        task=parts.task,
        label=parts.label,
        sampling=parts.sampling,
        latent_shape=parts.latent_shape,
        evaluate=parts.evaluate,
        batches=batches,
        description=parts.description,
        batch_shapes=batches.shapes() if batches is not None else parts.batch_shapes,
        mesh=mesh,
        optimizer=optimizer,
        options=options,
        seed=config.seed,
        config=stored_form(config),
        may_change=may_change,
        defines_model=defines_model,
    )
