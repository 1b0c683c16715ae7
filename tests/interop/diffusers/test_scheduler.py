# SPDX-License-Identifier: Apache-2.0
"""Settings of diffusers' schedulers are taken over, or named."""

import json

import numpy as np
import pytest

from ldm_jax.diffusion.samplers.grid import make_timesteps
from ldm_jax.interop.diffusers.scheduler import read_scheduler
from ldm_jax.tasks.sampling import make_sampling


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="unknown beta_schedule"):
        read_scheduler({"beta_schedule": "sigmoid"})


def saved(folder, cls, **options):
    """The config that a scheduler of diffusers saves."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = getattr(diffusers, cls)(**options)
    scheduler.save_pretrained(folder)
    return scheduler, json.loads((folder / "scheduler_config.json").read_text())


@pytest.mark.torch
@pytest.mark.parametrize("num_steps", [4, 10, 50])
def test_trailing_steps_are_those_of_diffusers(tmp_path, num_steps):
    """Golden: DDIMScheduler's time steps; the last of ours is clean data."""
    options = dict(timestep_spacing="trailing", rescale_betas_zero_snr=True)
    options |= dict(prediction_type="v_prediction", clip_sample=False)
    scheduler, config = saved(tmp_path, "DDIMScheduler", **options)
    scheduler.set_timesteps(num_steps)
    own_fields = read_scheduler(config)
    assert own_fields.sampling == {"grid": "even"} and own_fields.notes == ()
    assert own_fields.schedule["zero_terminal_snr"] and own_fields.prediction == "v"
    ours = make_timesteps(num_steps, 1000, "even")
    np.testing.assert_array_equal(ours, [*scheduler.timesteps.tolist(), -1])


@pytest.mark.torch
@pytest.mark.parametrize(
    ("options", "sampling"),
    [
        # Its limit is clamped to [1, 1]: plain clipping.
        (dict(thresholding=True), {"clip": 1.0}),
        (
            dict(thresholding=True, sample_max_value=1e9),
            {"threshold": 0.995},
        ),
        (dict(clip_sample=False), {}),
        (dict(clip_sample_range=3.0), {"clip": 3.0}),
    ],
)
def test_bounds_of_x0_are_taken_over(tmp_path, options, sampling):
    _, config = saved(tmp_path, "DDIMScheduler", set_alpha_to_one=False, **options)
    assert read_scheduler(config).sampling == sampling


@pytest.mark.torch
@pytest.mark.parametrize(
    ("cls", "options", "named"),
    [
        ("DDPMScheduler", dict(variance_type="fixed_large"), "variance_type"),
        ("DDIMScheduler", dict(timestep_spacing="linspace"), "timestep_spacing"),
        ("DDIMScheduler", dict(steps_offset=7), "steps_offset=7"),
        (
            "DDIMScheduler",
            dict(thresholding=True, sample_max_value=1.5),
            "sample_max_value=1.5",
        ),
        ("EulerDiscreteScheduler", dict(use_karras_sigmas=True), "use_karras_sigmas"),
        ("DPMSolverMultistepScheduler", dict(solver_order=3), "solver_order=3"),
        ("UniPCMultistepScheduler", dict(sigma_min=0.1), "sigma_min"),
    ],
)
def test_settings_that_are_not_taken_over_are_named(tmp_path, cls, options, named):
    _, config = saved(tmp_path, cls, **options)
    (note,) = read_scheduler(config).notes
    assert note.startswith("Not taken over from the scheduler: ") and named in note


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"_class_name": "DDIMScheduler"}, {}),
        ({"_class_name": "PNDMScheduler", "skip_prk_steps": True}, {"sampler": "plms"}),
        ({"_class_name": "HeunDiscreteScheduler"}, {"sampler": "heun"}),
        (
            {"_class_name": "HeunDiscreteScheduler", "rescale_betas_zero_snr": True},
            {"grid": "even"},  # it would divide by alpha = 0
        ),
        (
            {
                "_class_name": "DPMSolverMultistepScheduler",
                "algorithm_type": "sde-dpmsolver++",
            },
            {"sampler": "dpm_solver_sde"},
        ),
        (
            {"_class_name": "DDPMScheduler", "num_train_timesteps": 200},
            {"sampler": "ddpm", "num_steps": 200, "grid": "even"},
        ),
        ({"_class_name": "LMSDiscreteScheduler"}, {}),
        ({}, {}),
    ],
)
def test_the_sampler_is_that_of_the_class(config, expected):
    sampling = read_scheduler({"clip_sample": False, **config}).sampling
    assert sampling == expected
    assert make_sampling(**sampling).sampler == expected.get("sampler", "ddim")


@pytest.mark.parametrize(
    ("config", "note"),
    [
        (
            {"_class_name": "PNDMScheduler"},
            "The folder asks for 'PNDMScheduler': sampling.sampler is \"plms\".",
        ),
        (
            {"_class_name": "DDPMScheduler"},
            "The folder asks for 'DDPMScheduler': sampling.sampler is \"ddpm\", with "
            "all 1000 steps.",
        ),
        (
            {"_class_name": "LMSDiscreteScheduler"},
            "The folder asks for 'LMSDiscreteScheduler', which has no counterpart "
            'here: sampling.sampler is "ddim".',
        ),
        ({}, ""),
    ],
)
def test_a_sentence_names_the_sampler(config, note):
    assert read_scheduler(config).sampler_note == note


def test_runge_kutta_steps_are_named():
    """They come first unless they are skipped; our "plms" has none."""
    (note,) = read_scheduler({"_class_name": "PNDMScheduler"}).notes
    assert note == "Not taken over from the scheduler: skip_prk_steps=False."


def test_zero_terminal_snr_starts_at_the_last_step():
    """Lin et al. 2023: a grid of another spacing would start short of pure noise."""
    config = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    scheduler = read_scheduler(config)
    assert scheduler.sampling["grid"] == "even" and "pure noise" in scheduler.notes[0]


def test_networks_that_predict_variances_are_refused():
    with pytest.raises(ValueError, match="variance_type is 'learned_range'"):
        read_scheduler({"variance_type": "learned_range"})


@pytest.mark.parametrize(
    "config",
    [
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
        {"_class_name": "EDMDPMSolverMultistepScheduler"},
        {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True},
    ],
)
def test_another_process_is_not_taken_for_a_schedule_of_betas(config):
    with pytest.raises(ValueError, match="trained on a noise schedule of betas"):
        read_scheduler(config)
