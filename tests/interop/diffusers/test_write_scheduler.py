# SPDX-License-Identifier: Apache-2.0
"""Schedulers that are written give our schedules, and our sampler's latents."""

import json

import numpy as np
import pytest

from ldm_jax.diffusion.samplers.grid import make_timesteps
from ldm_jax.diffusion.schedule import make_schedule, same_schedule
from ldm_jax.interop.diffusers.scheduler import read_scheduler
from ldm_jax.interop.diffusers.write_scheduler import write_scheduler
from tests.diffusion.samplers.reference import (
    assert_close,
    run_scheduler,
    run_with_noises,
)

BETAS = tuple(np.linspace(0.01, 0.3, 20) ** 2 / 3)
SCHEDULES = {
    "sqrt": dict(kind="sqrt", num_timesteps=50, start=1e-4, end=0.02),
    "sqrt, defaults": dict(kind="sqrt"),
    "given": dict(kind="given", num_timesteps=20, betas=BETAS),
    "given, zero SNR": dict(
        kind="given", num_timesteps=20, betas=BETAS, zero_terminal_snr=True
    ),
}


def through_json(schedule, prediction="v", sampling=None):
    return json.loads(json.dumps(write_scheduler(schedule, prediction, sampling or {})))


def in_diffusers(config):
    """The scheduler of diffusers that a config describes; every field is known."""
    diffusers = pytest.importorskip("diffusers")
    cls = getattr(diffusers, config["_class_name"])
    scheduler, unused = cls.from_config(config, return_unused_kwargs=True)
    assert unused.keys() <= {"_class_name"}
    return scheduler


@pytest.mark.parametrize("kind", ["scaled_linear", "linear", "cosine"])
@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_schedules_survive(kind, prediction):
    """Identity, through the config that is written."""
    spec = {"kind": kind, "num_timesteps": 500}
    if kind != "cosine":
        spec |= {"start": 0.001, "end": 0.015}
    again = read_scheduler(write_scheduler(spec, prediction, {}))
    assert (again.schedule, again.prediction) == (spec, prediction)
    assert not again.sampling and not again.notes


@pytest.mark.parametrize("name", SCHEDULES)
def test_betas_that_diffusers_has_no_name_for_survive(name):
    """Identity, bit for bit: they are written one by one."""
    again = read_scheduler(through_json(SCHEDULES[name]))
    assert again.schedule["kind"] == "given"
    schedules = make_schedule(**SCHEDULES[name]), make_schedule(**again.schedule)
    assert same_schedule(*schedules)


@pytest.mark.torch
@pytest.mark.parametrize("name", SCHEDULES)
def test_diffusers_computes_our_tables_of_betas(name):
    """Golden: the tables of its scheduler, which it computes in float32."""
    scheduler = in_diffusers(through_json(SCHEDULES[name]))
    np.testing.assert_allclose(
        scheduler.alphas_cumprod.numpy(),
        make_schedule(**SCHEDULES[name]).alphas_cumprod,
        rtol=1e-5,
        atol=1e-7,
    )


@pytest.mark.parametrize(
    "sampling", [{"clip": 2.0}, {"threshold": 0.9}, {"grid": "even"}]
)
def test_settings_of_sampling_survive(sampling):
    """Identity, through JSON."""
    again = read_scheduler(through_json({"kind": "linear"}, sampling=sampling))
    assert again.sampling == sampling and not again.notes


NAMES = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "dpm_solver": "DPMSolverMultistepScheduler",
    "dpm_solver_sde": "DPMSolverMultistepScheduler",
    "plms": "PNDMScheduler",
    "unipc": "UniPCMultistepScheduler",
}


@pytest.mark.parametrize("grid", ["original", "even"])
@pytest.mark.parametrize("sampler", NAMES)
def test_samplers_survive(sampler, grid):
    """Identity; of a class that cannot end there, DDIMScheduler is written."""
    given = {"sampler": sampler, "grid": grid, "num_steps": 1000}
    config = through_json({"kind": "linear"}, sampling=given)
    again = read_scheduler(config)
    is_ddim = (sampler, grid) in [("plms", "even"), ("ddpm", "original")]
    assert config["_class_name"] == ("DDIMScheduler" if is_ddim else NAMES[sampler])
    expected = "ddim" if is_ddim else sampler
    assert again.sampling.get("sampler", "ddim") == expected and not again.notes
    assert again.sampling.get("grid", "original") == grid


@pytest.mark.parametrize(
    ("sampler", "prediction", "fields"),
    [
        ("euler", "eps", {}),
        ("heun", "eps", {}),
        ("plms", "x0", {}),
        ("plms", "eps", {"clip": 1.0}),
        ("unipc", "eps", {"threshold": 0.9}),
        ("ddpm", "eps", {"grid": "even", "variance": 1.0}),
    ],
)
def test_a_sampler_that_diffusers_cannot_express_is_written_as_ddim(
    sampler, prediction, fields
):
    sampling = {"sampler": sampler, **fields}
    config = write_scheduler({"kind": "linear"}, prediction, sampling)
    assert config["_class_name"] == "DDIMScheduler"


@pytest.mark.torch
@pytest.mark.parametrize(
    ("sampler", "grid"),
    [
        ("ddim", "original"),
        ("ddim", "even"),
        ("dpm_solver", "original"),
        ("dpm_solver", "even"),
        ("plms", "original"),
        ("unipc", "original"),
        ("unipc", "even"),
    ],
)
def test_the_scheduler_samples_what_our_sampler_samples(sampler, grid):
    """Golden: 10 steps with the same denoiser; solvers may have their own."""
    config = through_json({}, "eps", {"sampler": sampler, "grid": grid})
    scheduler = in_diffusers(config)
    scheduler.set_timesteps(10)
    steps = make_timesteps(10, 1000, grid)
    if grid == "original" and sampler in ("dpm_solver", "unipc"):
        steps = np.append(scheduler.timesteps.numpy(), 0).astype(np.int32)
    assert len(steps) == 11
    actual, _ = run_with_noises(sampler, steps)
    assert_close(actual, run_scheduler(scheduler, 10))


@pytest.mark.torch
def test_ddpm_takes_our_steps_with_our_means_and_variances():
    """Golden: single steps, with the noise that the scheduler draws."""
    torch = pytest.importorskip("torch")
    config = through_json({}, "eps", {"sampler": "ddpm", "grid": "even"})
    scheduler, tables = in_diffusers(config), make_schedule()
    scheduler.set_timesteps(1000)
    steps = make_timesteps(1000, 1000, "even")
    np.testing.assert_array_equal(scheduler.timesteps.numpy(), steps[:-1])
    z_t, eps = np.linspace(-1, 1, 4, dtype="f4")[None], np.full((1, 4), 0.5, "f4")
    for t in (999, 500, 1):
        actual = scheduler.step(
            torch.tensor(eps),
            t,
            torch.tensor(z_t),
            generator=torch.Generator().manual_seed(0),
        ).prev_sample
        noise = torch.randn(1, 4, generator=torch.Generator().manual_seed(0)).numpy()
        sigma = tables.sqrt_one_minus_alphas_cumprod[t]
        x0 = (z_t - sigma * eps) / tables.sqrt_alphas_cumprod[t]
        mean = tables.posterior_mean_z_0[t] * x0 + tables.posterior_mean_z_t[t] * z_t
        expected = mean + np.sqrt(tables.posterior_variance[t]) * noise
        np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-4, atol=1e-5)
