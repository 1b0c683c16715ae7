# SPDX-License-Identifier: Apache-2.0
"""Describes noise schedules and samplers as schedulers of diffusers."""

from collections.abc import Mapping
from typing import Any

from ldm_jax.diffusion.schedule import make_betas
from ldm_jax.interop.diffusers.scheduler import (
    PREDICTIONS,
    SCHEDULES,
    SDE_SOLVER,
    UNBOUNDED,
)

# Our sampler -> class and its settings. Their latents are scaled as ours, as some
# pipelines require; of Euler's and Heun's classes they are not.
SOLVERS = {
    "dpm_solver": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpm_solver_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": SDE_SOLVER}),
    "unipc": ("UniPCMultistepScheduler", {"solver_type": "bh2"}),
}


def write_scheduler(
    schedule: Mapping[str, Any], prediction: str, sampling: Mapping[str, Any]
) -> dict[str, Any]:
    """Describes a noise schedule and a sampler as a scheduler, on our time steps.

    Its class is that of the sampler if it computes the same, otherwise DDIMScheduler.
    DPM-Solver++ and UniPC place the steps of the grid "original" closer: as for one
    step more, of which the noisiest is left out.

    Args:
      schedule: arguments of `make_schedule`.
      prediction: "eps", "x0" or "v".
      sampling: fields of `Sampling` and options of its sampler; sampler, grid, clip,
        threshold and variance are read.
    """
    has_zero_snr = bool(schedule.get("zero_terminal_snr", False))
    is_even = has_zero_snr or sampling.get("grid") == "even"
    name, options = _class(sampling, prediction, is_even)
    if name != "PNDMScheduler":  # it has no such schedules
        options["rescale_betas_zero_snr"] = has_zero_snr
    return {
        "_class_name": name,
        "num_train_timesteps": schedule.get("num_timesteps", 1000),
        **_betas(schedule),
        "prediction_type": PREDICTIONS[prediction],
        "steps_offset": 0 if is_even else 1,
        "timestep_spacing": "trailing" if is_even else "leading",
        **options,
    }


def _class(
    sampling: Mapping[str, Any], prediction: str, is_even: bool
) -> tuple[str, dict[str, Any]]:
    """Chooses the class and its own settings.

    Args:
      sampling, prediction: see `write_scheduler`.
      is_even: whether the steps end at clean data, not at t = 0.
    """
    sampler = sampling.get("sampler", "ddim")
    bounds = _bounds(sampling)
    if sampler == "ddpm" and is_even and not sampling.get("variance"):
        return "DDPMScheduler", {**bounds, "variance_type": "fixed_small"}
    if bounds["clip_sample"] or bounds["thresholding"]:
        sampler = "ddim"  # the others have no or other bounds
    if sampler in SOLVERS:
        name, options = SOLVERS[sampler]
        return name, {
            **options,
            "solver_order": 2,
            "lower_order_final": is_even,
            "final_sigmas_type": "zero" if is_even else "sigma_min",
        }
    if sampler == "plms" and not is_even and prediction != "x0":
        return "PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": False}
    return "DDIMScheduler", {**bounds, "set_alpha_to_one": is_even}


def _betas(schedule: Mapping[str, Any]) -> dict[str, Any]:
    """Describes the betas: by a schedule of diffusers, otherwise one by one."""
    kind = schedule.get("kind", "scaled_linear")
    if kind in SCHEDULES:
        return {
            "beta_start": schedule.get("start", 0.0015),
            "beta_end": schedule.get("end", 0.0195),
            "beta_schedule": SCHEDULES[kind],
        }
    options = ("start", "end", "betas")
    betas = make_betas(
        kind,
        schedule.get("num_timesteps", 1000),
        **{name: schedule[name] for name in options if name in schedule},
    )
    return {"trained_betas": betas.tolist()}


def _bounds(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Describes how x0 is bounded."""
    clip, threshold = sampling.get("clip"), sampling.get("threshold")
    return {
        "clip_sample": clip is not None,
        "clip_sample_range": 1.0 if clip is None else clip,
        "thresholding": threshold is not None,
        "dynamic_thresholding_ratio": 0.995 if threshold is None else threshold,
        "sample_max_value": 1.0 if threshold is None else UNBOUNDED,
    }
