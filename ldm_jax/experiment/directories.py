# SPDX-License-Identifier: Apache-2.0
"""The first stage of a model directory."""

from etils import epath
from ml_collections import ConfigDict

from ldm_jax.experiment import experiment


def first_stage_of(directory: str) -> tuple[str, ConfigDict]:
    """Finds a first stage: the model itself, or that inside a diffusion model.

    Returns:
      (its directory, its settings).

    Raises:
      ValueError: there is none.
    """
    if experiment.read_config(directory).task == "latent_diffusion":
        inside = f"{directory}/autoencoder"
        if not epath.Path(inside).exists():
            raise ValueError(
                f"{directory} has no first stage: it makes its images without one, or "
                "was imported without; name another --model."
            )
        directory = inside
    return directory, experiment.read_config(directory, "first_stage")
