# SPDX-License-Identifier: Apache-2.0
"""Plans as tables."""

import dataclasses

from ldm_jax.parallel import chips
from ldm_jax.planning import hlo, plan, plan_rows


def test_a_plan_states_the_time_that_the_compiler_estimates():
    """Oracle: 2e6 cycles at 1 GHz are 2 ms, in which 1e9 FLOPs are half of 1e12/s."""
    work = plan.Work("", None, {}, {}, 0, False, 0.0)
    schedule = hlo.Schedule(cycles=2_000_000, num_kernels=3)
    chip = chips.Chip(1e12, hbm_bytes=2**30, hbm_rate=1e11, link_rate=1e10, clock=1e9)
    result = plan.Plan(work, chip, {"data": 1}, executed=1e9, schedule=schedule)
    (_, text), (_, more) = plan_rows._schedule(result)
    assert text == "2 ms at 1e+09 Hz, by the compiler's estimate: 50% of the peak"
    assert more == "without messages and 3 kernels"
    without = dataclasses.replace(result, schedule=hlo.Schedule(2_000_000, 0))
    assert plan_rows._schedule(without)[1] == ("", "without messages")
    assert not plan_rows._schedule(dataclasses.replace(result, schedule=None))
