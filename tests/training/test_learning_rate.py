# SPDX-License-Identifier: Apache-2.0
"""Schedules of the learning rate, against values of the released code."""

import numpy as np
import pytest

from ldm_jax.training.learning_rate import make_rate_schedule
from ldm_jax.training.optimizer import make_optimizer


def test_warmup_linear_is_the_lambda_linear_of_the_released_configs():
    """Golden: LambdaLinearScheduler(10000, 1e-6 -> 1, f_min 1), run in PyTorch."""
    factor = make_rate_schedule("warmup_linear", warmup_steps=10_000)
    got = [float(factor(n)) for n in (0, 1, 5000, 10_000, 10**9)]
    np.testing.assert_allclose(got, [1e-6, 0.0001009999, 0.5000005, 1, 1], rtol=1e-5)


def test_warmup_linear_ends_where_it_should():
    """Oracle: half way from 1 to 0.2 is 0.6; past the end it stays 0.2."""
    fields = dict(warmup_steps=10, num_steps=1000, end=0.2)
    factor = make_rate_schedule("warmup_linear", **fields)
    np.testing.assert_allclose([factor(500), factor(2000)], [0.6, 0.2], rtol=1e-6)
    with pytest.raises(ValueError, match="num_steps"):
        make_rate_schedule("warmup_linear", warmup_steps=10, end=0.2)


def test_warmup_cosine_is_the_schedule_of_the_inpainting_model():
    """Golden: inpainting's LambdaWarmUpCosineScheduler, run in PyTorch."""
    factor = make_rate_schedule(
        "warmup_cosine",
        warmup_steps=1000,
        num_steps=50_000,
        start=0.001,
        peak=0.1,
        end=0.0001,
    )
    got = [float(factor(n)) for n in (0, 500, 1000, 25_500, 50_000, 10**6)]
    want = [0.001, 0.0505, 0.1, 0.05005, 0.0001, 0.0001]
    np.testing.assert_allclose(got, want, rtol=1e-4)
    with pytest.raises(ValueError, match="num_steps > warmup_steps"):
        make_rate_schedule("warmup_cosine", warmup_steps=10, num_steps=10)


@pytest.mark.parametrize(
    ("schedule", "length"),
    [
        (dict(name="warmup_cosine", warmup_steps=10), "num_steps"),
        (dict(name="warmup_linear", warmup_steps=10, end=0.0), "num_steps"),
        (dict(name="cosine_decay_schedule", init_value=1.0), "decay_steps"),
        (
            dict(name="linear_schedule", init_value=1.0, end_value=0.0),
            "transition_steps",
        ),
    ],
)
def test_a_schedule_is_as_long_as_the_run_unless_its_length_is_set(schedule, length):
    """Identity: the length of the run, or the same number spelled out."""
    followed = make_rate_schedule(**schedule, run_steps=2000)
    spelled = make_rate_schedule(**schedule, **{length: 2000})
    steps = (0, 10, 900, 1500, 1999)
    values = [[float(f(n)) for n in steps] for f in (followed, spelled)]
    assert values[0] == values[1] and min(values[0][1:]) > 0
    short = {**schedule, length: 900}
    assert float(make_rate_schedule(**short, run_steps=2000)(1500)) == 0
    with pytest.raises(ValueError, match=f"optimizer.schedule.{length}=900 makes it 0"):
        make_optimizer(schedule=short, run_steps=2000)


def test_a_run_may_end_in_its_warm_up():
    factor = make_rate_schedule("warmup_cosine", warmup_steps=20, run_steps=10)
    np.testing.assert_allclose([factor(0), factor(10)], [0, 0.5])


def test_rates_that_are_0_at_the_end_or_small_are_taken():
    for schedule in (
        dict(name="warmup_cosine", warmup_steps=10),
        dict(name="warmup_cosine", warmup_steps=10, num_steps=900, end=1e-6),
    ):
        make_optimizer(schedule=schedule, run_steps=2000)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(learning_rate=0.0), r"optimizer\.learning_rate must be above 0: got 0"),
        (
            dict(networks={"d": dict(learning_rate=-1.0)}),
            r"optimizer\.networks\.d\.learning_rate must be above 0",
        ),
        (
            dict(schedule=dict(name="warmup_cosine", warmup=3)),
            "must be those of warmup_cosine: got .*warmup",
        ),
    ],
)
def test_rates_that_teach_nothing_and_unknown_arguments_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(**fields, run_steps=100)
