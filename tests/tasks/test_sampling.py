# SPDX-License-Identifier: Apache-2.0
"""Settings of sampling: refusals, options of the samplers, changes of defaults."""

import math

import numpy as np
import pytest

from ldm_jax.diffusion.samplers import options_by_name
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.tasks.sampling import make_sampling, replace_sampling, sampling_fields


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(sampler="dimm"), 'unknown sampler "dimm"; one of: ddim, ddpm'),
        (dict(sampler="plms", eta=1.0), 'the sampler "plms" has no eta'),
        (dict(variance=1.0), 'the sampler "ddim" has no variance'),
        (dict(clip=1.0, threshold=0.9), "both bound x0_hat"),
        (dict(overlap=4), "overlap=4 is of tiles"),
        (dict(eta=1.5), r"eta must be in \[0, 1\]: got 1.5"),
        (
            dict(num_steps=1),
            "would return the noise itself; use grid=.even. .--grid ev",
        ),
        (dict(guidance_scale=math.nan), "guidance_scale must be a finite number"),
        (dict(guidance_scale=10**400), "must be a finite number in single precision"),
        (dict(guidance_scale=1e39), "must be a finite number in single precision"),
        (dict(guidance_interval=(0, 10**20)), "must hold steps t below 100000"),
        (dict(eta=1.0, temperature=math.inf), "temperature must be a finite number"),
        (dict(clip=math.inf), "clip must be a finite number"),
        (dict(strength=-math.inf), "strength must be a finite number"),
        (dict(num_steps=0), "num_steps must be 1 or more: got 0"),
        (dict(tile=0), "tile must be 1 or more: got 0"),
        (dict(grid="odd"), 'unknown grid "odd"; one of: original, even'),
        (dict(num_stps=4), 'the sampler "ddim" has no num_stps'),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_sampling(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(num_steps=None), "num_steps must be a whole number: got None; the def"),
        (dict(num_steps=2.5), r"num_steps must be a whole number: got 2\.5"),
        (dict(guidance_scale=None), "guidance_scale must be a number: got None"),
        (dict(guidance_scale="3"), "guidance_scale must be a number: got '3'"),
        (dict(guidance_interval=3), "guidance_interval must be a tuple, .*: got 3"),
        (dict(snap_to_codebook=1), "snap_to_codebook must be True or False: got 1"),
        (dict(sampler=None), "sampler must be a text: got None"),
        (dict(eta="much"), r"eta must be a number: got 'much'; the default is 0\.0"),
    ],
)
def test_values_of_another_type_are_refused_by_name(options, message, unchecked_shapes):
    with pytest.raises((TypeError, ValueError), match=message):
        make_sampling(**options)


def test_numbers_of_numpy_are_numbers(unchecked_shapes):
    settings = dict(num_steps=np.int64(10), guidance_scale=np.float32(3), eta=1)
    assert make_sampling(**settings).num_steps == 10


def test_settings_go_there_and_back_by_name():
    """Identity: what JSON and configs hold, the sampler's options among the others."""
    sampling = make_sampling(sampler="ddim", eta=0.5, temperature=0.9, num_steps=4)
    settings = sampling.to_dict()
    assert settings["eta"] == 0.5 and settings["num_steps"] == 4
    assert make_sampling(**settings) == sampling
    assert hash(make_sampling(**settings)) == hash(sampling)


def test_options_stay_with_their_sampler():
    defaults = dict(sampler="ddim", eta=1.0, num_steps=20, guidance_scale=3.0)
    changed = replace_sampling(defaults, {"sampler": "plms", "num_steps": 10})
    assert (
        changed.to_dict()
        == make_sampling(sampler="plms", num_steps=10, guidance_scale=3.0).to_dict()
    )
    assert dict(replace_sampling(defaults, {"num_steps": 10}).options) == {"eta": 1.0}


def test_every_setting_has_a_line_of_help_and_a_name_of_its_own():
    """They are flags of one command line."""
    fields, options = sampling_fields(), options_by_name()
    assert not set(fields) & set(options)
    assert all(field.doc for field in fields.values())
    assert all(option.doc for option, _ in options.values())


@pytest.mark.parametrize(
    ("settings", "is_refused"),
    [
        (dict(grid="original"), True),
        (dict(grid="even"), False),
        (dict(grid="original", strength=0.5), False),  # starts from an image
    ],
)
def test_zero_terminal_snr_is_sampled_from_its_last_step(settings, is_refused):
    """Lin et al. 2023: the original grid begins before it, where data leaks in."""
    schedule = make_schedule(zero_terminal_snr=True)
    sampling = make_sampling(**settings)
    if not is_refused:
        assert len(sampling.make_timesteps(schedule)) == 51
        return
    with pytest.raises(ValueError, match='use grid="even"'):
        sampling.make_timesteps(schedule)
