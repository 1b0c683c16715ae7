# SPDX-License-Identifier: Apache-2.0
"""The first stage of a model directory."""

from etils import epath

from ldm_jax import experiment


def first_stage_of(directory: str) -> str:
    """Returns the directory of a first stage: itself, or that inside a diffusion model.

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
        return inside
    experiment.read_config(directory, "first_stage")
    return directory
