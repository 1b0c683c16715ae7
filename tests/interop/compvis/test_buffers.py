# SPDX-License-Identifier: Apache-2.0
"""Buffers of the noise schedule are compared at the precision they are stored in."""

import ml_dtypes
import numpy as np
import pytest

from ldm_jax.interop.compvis.buffers import check_schedule, schedule_buffers
from ldm_jax.interop.layouts import NamesDiffer

SCHEDULES = [
    dict(kind="scaled_linear", start=0.0015, end=0.0195),
    dict(kind="scaled_linear", start=0.00085, end=0.012),
    dict(kind="linear", start=1e-4, end=0.02),
    dict(kind="cosine"),
]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_buffers_rounded_to_a_dtype_are_the_schedules(schedule, dtype):
    """Identity: every tensor converted, as scripts that shrink checkpoints do."""
    buffers = schedule_buffers(schedule)
    check_schedule({n: x.astype(dtype) for n, x in buffers.items()}, schedule)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("other", SCHEDULES[1:])
def test_another_schedule_is_seen_in_half_precision_too(dtype, other):
    buffers = schedule_buffers(other)
    with pytest.raises(NamesDiffer, match="noise schedule is not the config's"):
        check_schedule({n: x.astype(dtype) for n, x in buffers.items()}, SCHEDULES[0])


@pytest.mark.parametrize("name", ["betas", "alphas_cumprod"])
def test_a_buffer_of_nan_is_damage_and_no_other_schedule(name):
    buffers = schedule_buffers(SCHEDULES[0])
    buffers[name] = np.full_like(buffers[name], np.nan)
    with pytest.raises(ValueError, match=f"must be finite numbers: {name} holds NaN"):
        check_schedule(buffers, SCHEDULES[0])
