# SPDX-License-Identifier: Apache-2.0
"""Translates scheduler configs of diffusers to noise schedules and sampling."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from ldm_jax.files.errors import shown
from ldm_jax.interop.diffusers.config_values import (
    SCHEDULER_VALUES,
    check_config_values,
)

# Name here -> name in diffusers.
SCHEDULES = {
    "scaled_linear": "scaled_linear",
    "linear": "linear",
    "cosine": "squaredcos_cap_v2",
}
PREDICTIONS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
# Spacing of time steps -> our grid. "linspace" has none.
GRIDS = {"leading": "original", "trailing": "even"}
# Class -> our sampler.
SAMPLERS = {
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddpm",
    "DPMSolverMultistepScheduler": "dpm_solver",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "EulerDiscreteScheduler": "euler",
    "HeunDiscreteScheduler": "heun",
    "PNDMScheduler": "plms",
    "UniPCMultistepScheduler": "unipc",
}
SDE_SOLVER = "sde-dpmsolver++"
# Samplers that divide by alpha, which is 0 at the end of a zero terminal SNR.
DIVIDING = ("heun", "plms")
# Classes whose spacing is "leading" where the config has none; others': "linspace".
LEADING = ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler")
# Classes that clip x0 where the config does not say.
CLIPPING = ("DDIMScheduler", "DDPMScheduler")
# A `sample_max_value` from which dynamic thresholding counts as unbounded.
UNBOUNDED = 1e6

# Beginnings of classes that have no noise schedule of betas, whatever their fields are.
WITHOUT_BETAS = ("FlowMatch", "EDM", "ScoreSde", "KarrasVe", "CMStochastic", "VQDiff")

# Fields that `read_scheduler` translates, or that only name the file's version.
_READ = frozenset(
    {
        *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule"),
        *("trained_betas", "prediction_type", "rescale_betas_zero_snr"),
        *("clip_sample", "clip_sample_range", "thresholding", "sample_max_value"),
        *("dynamic_thresholding_ratio", "timestep_spacing", "variance_type"),
        *("steps_offset", "set_alpha_to_one", "tensor_format", "timestep_values"),
        "final_sigmas_type",
    }
)
# Fields of solvers -> the values that ask for nothing special.
_NEUTRAL = {
    "skip_prk_steps": (True,),
    "interpolation_type": ("linear",),
    "timestep_type": ("discrete",),
    "solver_order": (2,),
    "solver_type": ("midpoint", "bh2"),
    "algorithm_type": ("dpmsolver++", SDE_SOLVER),
    "lower_order_final": (True,),
    "predict_x0": (True,),
    "flow_shift": (1.0,),
    "time_shift_type": ("exponential",),
    "lambda_min_clipped": (-math.inf,),
    "disable_corrector": ([],),
}


class Scheduler(NamedTuple):
    """The contents of a scheduler's config.

    Attributes:
      schedule: arguments of `make_schedule`.
      prediction: "eps", "x0" or "v".
      sampling: fields of `Sampling`.
      notes: sentences on settings that are not taken over.
      name: its class in diffusers, "" where the config has none.
    """

    schedule: dict[str, Any]
    prediction: str
    sampling: dict[str, Any]
    notes: tuple[str, ...] = ()
    name: str = ""

    @property
    def sampler_note(self) -> str:
        """A sentence on the sampler that the class is, "" without a class."""
        if not self.name:
            return ""
        steps = self.sampling.get("num_steps")
        parts = [
            f"The folder asks for {shown(self.name)}",
            "" if self.name in SAMPLERS else ", which has no counterpart here",
            f': sampling.sampler is "{self.sampling.get("sampler", "ddim")}"',
            f", with all {steps} steps" if steps else "",
        ]
        return "".join(parts) + "."


def read_scheduler(config: Mapping[str, Any]) -> Scheduler:
    """Translates the config of a scheduler.

    Raises:
      ValueError: a value of another type or out of range, an unknown schedule or
        prediction, a class without a schedule of betas
        (flow matching), or a network that also predicts variances.
    """
    check_config_values(config, SCHEDULER_VALUES)
    name, is_flow = str(config.get("_class_name")), bool(config.get("use_flow_sigmas"))
    if name.startswith(WITHOUT_BETAS) or is_flow:
        raise ValueError(
            "a model must be trained on a noise schedule of betas: its scheduler is "
            f"{shown(name)} with use_flow_sigmas={is_flow}, which is another process. "
            "Such models are not supported."
        )
    schedule, prediction = _schedule(config)
    sampling, left = _bound_of_x0(config)
    grid, more = _grid(config, schedule)
    left |= more | {
        field: value
        for field, value in config.items()
        if field not in _READ
        and not field.startswith("_")
        and value not in (None, False, *_NEUTRAL.get(field, ()))
    }
    variance = config.get("variance_type") or "fixed_small"
    if variance.startswith("learned"):
        raise ValueError(
            f"the scheduler's variance_type is {shown(variance)}: networks that also "
            "predict variances are not supported."
        )
    if variance not in ("fixed_small", "fixed_small_log"):
        left["variance_type"] = variance  # `--sampler ddpm --variance 1`
    if config.get("_class_name") == "PNDMScheduler" and not config.get(
        "skip_prk_steps"
    ):
        left["skip_prk_steps"] = False
    has_zero_snr = schedule.get("zero_terminal_snr", False)
    sampling |= _sampler(config, has_zero_snr)
    notes = []
    if left:
        settings = ", ".join(f"{name}={shown(value)}" for name, value in left.items())
        notes.append(f"Not taken over from the scheduler: {settings}.")
    if grid:
        sampling["grid"] = grid
    if has_zero_snr and config.get("timestep_spacing") != "trailing":
        notes.append(
            "The schedule ends in pure noise (rescale_betas_zero_snr), so sampling "
            'starts at the last step: sampling.grid is "even".'
        )
    name = str(config.get("_class_name") or "")
    return Scheduler(schedule, prediction, sampling, tuple(notes), name)


def _sampler(config: Mapping[str, Any], has_zero_snr: bool) -> dict[str, Any]:
    """Reads the sampler, as fields of `Sampling`; {} is DDIM."""
    sampler = SAMPLERS.get(str(config.get("_class_name")), "ddim")
    if sampler == "ddim" or (has_zero_snr and sampler in DIVIDING):
        return {}
    if sampler == "dpm_solver" and config.get("algorithm_type") == SDE_SOLVER:
        sampler = "dpm_solver_sde"
    if sampler == "ddpm":  # defined by all steps
        num_steps = config.get("num_train_timesteps", 1000)
        return {"sampler": "ddpm", "num_steps": num_steps, "grid": "even"}
    return {"sampler": sampler}


def _schedule(config: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Reads the arguments of `make_schedule`, and the prediction."""
    kinds = {diffusers: kind for kind, diffusers in SCHEDULES.items()}
    kind = config.get("beta_schedule", "linear")
    prediction = config.get("prediction_type", "epsilon")
    predictions = {diffusers: kind for kind, diffusers in PREDICTIONS.items()}
    betas = config.get("trained_betas")
    if (betas is None and kind not in kinds) or prediction not in predictions:
        raise ValueError(
            f"unknown beta_schedule {shown(kind)} or prediction_type "
            f"{shown(prediction)}; known are {', '.join(kinds)} and "
            f"{', '.join(predictions)}."
        )
    schedule = {"num_timesteps": config.get("num_train_timesteps", 1000)}
    if betas is not None:
        schedule.update(kind="given", betas=tuple(betas))
    else:
        schedule["kind"] = kinds[kind]
        if schedule["kind"] != "cosine":
            schedule["start"] = config.get("beta_start", 1e-4)
            schedule["end"] = config.get("beta_end", 0.02)
    if config.get("rescale_betas_zero_snr"):
        schedule["zero_terminal_snr"] = True
    return schedule, predictions[prediction]


def _bound_of_x0(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads how x0 is bounded: (fields of `Sampling`, settings not taken over)."""
    if config.get("thresholding"):
        largest = config.get("sample_max_value", 1.0)
        if largest <= 1:  # the limit is clamped to [1, 1]: plain clipping
            return {"clip": 1.0}, {}
        ratio = config.get("dynamic_thresholding_ratio", 0.995)
        left = {} if largest >= UNBOUNDED else {"sample_max_value": largest}
        return {"threshold": float(ratio)}, left
    if config.get("clip_sample", config.get("_class_name") in CLIPPING):
        return {"clip": float(config.get("clip_sample_range", 1.0))}, {}
    return {}, {}


def _grid(
    config: Mapping[str, Any], schedule: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Reads the grid of time steps: (grid or "", settings not taken over).

    Our "original" grid has an offset of 1 and ends at t = 0, "even" ends at clean data.
    """
    default = "leading" if config.get("_class_name") in LEADING else "linspace"
    spacing = config.get("timestep_spacing", default)
    if config.get("_class_name") == "DDPMScheduler":
        return "even", {}  # all steps: every spacing has the same
    if schedule.get("zero_terminal_snr") or spacing == "trailing":
        last = config.get("final_sigmas_type", "zero")
        return "even", {} if last == "zero" else {"final_sigmas_type": last}
    if spacing not in GRIDS:
        return "", {"timestep_spacing": spacing}
    left = {}
    # Absent: old configs, of the classes' first versions.
    if config.get("steps_offset", 1) != 1:
        left["steps_offset"] = config["steps_offset"]
    if config.get("set_alpha_to_one", False):
        left["set_alpha_to_one"] = True
    return "", left
