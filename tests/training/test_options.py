# SPDX-License-Identifier: Apache-2.0
"""Options of the loop are checked when they are made."""

import dataclasses

import pytest

from ldm_jax.training.options import LoopOptions


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_steps", -5, r"train\.num_steps must be at least 1: got -5"),
        ("num_steps", 0, r"train\.num_steps must be at least 1: got 0"),
        ("num_steps", 10**39, r"at most 2147483647: got 1000000"),
        ("num_steps", 7.0, r"train\.num_steps must be a whole number: got 7\.0"),
        ("report_every", 0, r"at least 1: got 0; the default is 50"),
        ("keep", 0, r"train\.keep must be at least 1: got 0; the default is 2"),
        ("checkpoint_every", 0, "at least 1: got 0; the default is 1000"),
        ("evaluate_every", -1, "at least 1: got -1"),
        ("accumulate", True, "must be a whole number: got True"),
        ("max_ema_decay", 1.5, "at most 1: got 1.5"),
        ("max_ema_decay", "0.9", "must be a number: got '0.9'"),
        ("checkpoint_seconds", float("nan"), "must be at least 0: got nan"),
        ("step_timeout", 0, "must be above 0: got 0"),
        ("step_timeout", float("inf"), "must be finite: got inf"),
        ("best", 3, "must be a text or None: got 3"),
        ("ema_of", "unet", "must be a tuple, .*: got 'unet'"),
        ("allow_data_change", 1, "must be True or False: got 1"),
        ("wandb", None, "must be a text: got None"),
        ("profile_steps", (4, 3), r"must be \(first, last\)"),
        ("profile_steps", (2, 3), r"must be steps of the run: got \(2, 3\)"),
        ("keep_every", 1500, "a multiple of train.checkpoint_every: got 1500 and 1000"),
        ("matmul_precision", "float64", "one of bfloat16, tensorfloat32, float32"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(field, value, message):
    with pytest.raises((ValueError, TypeError), match=message):
        LoopOptions(**{"num_steps": 1, field: value})


@pytest.mark.parametrize(
    "field",
    [
        *("checkpoint_every", "checkpoint_seconds", "evaluate_every", "best"),
        *("histograms_every", "skip_norm_above", "step_timeout"),
    ],
)
def test_what_is_documented_to_be_none_may_be(field):
    assert getattr(LoopOptions(**{"num_steps": 1, field: None}), field) is None


def test_defaults_and_lists_as_json_has_them_are_taken():
    options = LoopOptions(num_steps=2, ema_of=["unet"], profile_steps=[1, 2])
    assert LoopOptions(**dataclasses.asdict(options)) == options


def test_every_option_defines_whether_it_may_change_on_resuming():
    for field in dataclasses.fields(LoopOptions):
        assert isinstance(field.metadata["may_change"], bool)


def test_the_options_that_allow_a_change_are_listed():
    options = LoopOptions(num_steps=1, allow_optimizer_change=True)
    assert options.allowed_changes == {"allow_optimizer_change"}
    names = {f.name for f in dataclasses.fields(options) if f.name.startswith("allow_")}
    every = LoopOptions(num_steps=1, **dict.fromkeys(names, True))
    assert every.allowed_changes == names
