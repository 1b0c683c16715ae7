# SPDX-License-Identifier: Apache-2.0
"""From a config to a run that is ready to be trained, or planned.

check -> resolve what is open -> mesh, optimizer -> model, data, task, evaluation ->
copies of what the run reads. Beyond this room only objects travel.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from ldm_jax.experiment.builders.classifier import build_classifier
from ldm_jax.experiment.builders.diffusion import build_diffusion
from ldm_jax.experiment.builders.first_stage import build_first_stage
from ldm_jax.experiment.config.resuming import defines_model, may_change
from ldm_jax.experiment.config.schema import check_config
from ldm_jax.experiment.resolve import Inputs, resolve_config
from ldm_jax.experiment.text_encoder import copy_encoder
from ldm_jax.experiment.vocabulary import copy_files, places_of, text_section
from ldm_jax.parallel import sharding
from ldm_jax.parallel.hosts import is_main_process
from ldm_jax.training.optimizer import make_optimizer
from ldm_jax.training.options import LoopOptions
from ldm_jax.training.run import Run

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
    devices: Sequence[jax.Device] | None = None,
) -> Run:
    """Builds what a config describes.

    Args:
      config: of one experiment, see `schema.SECTIONS`; stays as it is.
      workdir: becomes a model directory: gets copies of the first stage, the text
        encoder and the vocabulary that the run reads; "" writes nothing.
      abstract: shapes only, for planning: no data and no weights are read, nothing is
        written; parameters that are not trained are zeros without memory.
      devices: of the mesh; None takes all.

    Returns:
      The run. Its config has nothing left open.

    Raises:
      ValueError: the config does not fit together, or what it names does not fit it.
    """
    check_config(config)
    if config.task not in BUILDERS:
        raise ValueError(
            f"config.task must be {' or '.join(BUILDERS)} to be trained: got "
            f"{config.task!r}."
        )
    config, inputs = resolve_config(config, abstract=abstract)
    options = LoopOptions(**config.train)
    optimizer = make_optimizer(**config.optimizer, run_steps=options.num_steps)
    mesh = sharding.make_mesh(**config.mesh, devices=devices)
    parts = BUILDERS[config.task](config, inputs, mesh, abstract)
    if not abstract and workdir:
        copy_inputs(config, inputs, workdir)
    return Run(
        **parts,
        mesh=mesh,
        optimizer=optimizer,
        options=options,
        seed=config.seed,
        config=stored_form(config),
        may_change=may_change,
        defines_model=defines_model,
    )


def copy_inputs(config: ConfigDict, inputs: Inputs, workdir: str) -> None:
    """Copies what a model needs beside its own parameters into its directory.

    Raises:
      ValueError: the directory holds copies of something else.
    """
    words = text_section(config.get("condition", {}))
    if words is not None and is_main_process():
        copy_files(workdir, words)
    has_encoder = "text_encoder" in config and config.text_encoder.get("directory")
    if words is not None and has_encoder:
        params, directory = inputs.text_encoder, config.text_encoder.directory
        copy_encoder(workdir, words.to_dict(), params, directory)
    if inputs.first_stage is not None:
        inputs.first_stage.copy_to(workdir)


def stored_form(config: ConfigDict) -> Mapping[str, Any]:
    """Returns a config as config.json holds it: the vocabulary is beside it."""
    stored = config.copy_and_resolve_references()
    words = text_section(stored.get("condition", {}))
    if words is not None:
        words.update(places_of(words))
    return stored.to_dict()
