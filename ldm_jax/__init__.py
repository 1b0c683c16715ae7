# SPDX-License-Identifier: Apache-2.0
"""Latent diffusion models in JAX (Rombach et al. 2022).

    model, params = ldm_jax.load(directory)
    z_0 = ldm_jax.sample(model, params, cond, z_T=z_T, guidance_scale=3.0, null=null)
    ldm_jax.save(directory, model, params)

Other functions are in the sub-packages (`models`, `diffusion`, `tasks`, `data`,
`training`, `metrics`, `interop`, ...), which are imported by name: CONTRIBUTING.md
describes them.
"""

from typing import TYPE_CHECKING

__all__ = ["load", "sample", "save"]
__version__ = "0.1.0"

if TYPE_CHECKING:
    from ldm_jax.experiment.model_directory import load
    from ldm_jax.experiment.save_model import save
    from ldm_jax.tasks.sample_latents import sample
else:  # type checkers would take any name from a function of this name

    def __getattr__(name):
        # Imported on first use: `ldm-jax --help` should not wait for JAX.
        if name == "load":
            from ldm_jax.experiment.model_directory import load

            return load
        if name == "save":
            from ldm_jax.experiment.save_model import save

            return save
        if name == "sample":
            from ldm_jax.tasks.sample_latents import sample

            return sample
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
