# SPDX-License-Identifier: Apache-2.0
"""Schedules of the learning rate, against values of the released code."""

import numpy as np
import pytest

from ldm_jax.training.learning_rate import make_rate_schedule


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
