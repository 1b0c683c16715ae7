# SPDX-License-Identifier: Apache-2.0
"""Trains a first stage or a diffusion model from its config."""

from ml_collections import ConfigDict

from ldm_jax.experiment.prepare import prepare
from ldm_jax.files.outputs import check_writable
from ldm_jax.parallel.hosts import in_main_process
from ldm_jax.planning.utilization import peak_share
from ldm_jax.training import loop
from ldm_jax.training.state import TrainState


def train(config: ConfigDict, workdir: str) -> TrainState:
    """Trains what a config describes, or resumes it where `workdir` was left.

    Args:
      config: of one experiment, see `experiment.config.schema.SECTIONS`.
      workdir: becomes a model directory.

    Returns:
      The state after the last step.

    Raises:
      ValueError: the config, the data or the directory do not fit.
    """
    in_main_process(lambda: check_writable(workdir, "--workdir"))
    run = prepare(config, workdir)
    utilization = peak_share(run.task, run.batch_shapes, run.mesh)
    return loop.train(run, workdir, utilization)
