# SPDX-License-Identifier: Apache-2.0
"""Every second of a run is counted once, those that were lost among them."""

import pytest

from ldm_jax.training.monitoring.goodput import Ledger, format_goodput, goodput


def test_phases_add_up_to_the_time_that_passed(monkeypatch):
    """Oracle: a clock that the test moves."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    begun = []
    times = Ledger(on_change=begun.append)
    now[0] += 1
    with times.phase("compile"):
        now[0] += 10
    times.switch("step")
    for _ in range(3):
        with times.phase("data"):
            now[0] += 0.5
        now[0] += 2
    assert times.take() == {"start": 1, "compile": 10, "data": 1.5, "step": 6}
    now[0] += 4
    assert times.take() == {"step": 4}
    assert begun[:3] == ["compile", "start", "step"]


def test_the_time_of_a_phase_counts_though_it_raises():
    times = Ledger()
    with pytest.raises(KeyError), times.phase("evaluation"):
        raise KeyError
    assert set(times.take()) == {"start", "evaluation"}


def row(last, steps, time, **seconds):
    return dict(step=last, steps=steps, time=time, seconds=seconds)


def test_lost_steps_and_the_time_between_two_attempts_are_reported():
    """Oracle: 100 s by hand; killed after step 30, resumed at 15 after 20 s."""
    rows = [
        {"event": "start", "step": 0, "time": 0.0},
        row(10, 10, 30.0, start=5, compile=5, step=18, data=2),
        row(20, 10, 50.0, step=20),
        row(30, 10, 60.0, step=10),
        {"event": "start", "step": 15, "time": 80.0},
        row(30, 15, 95.0, start=5, step=10),
        row(30, 0, 100.0, checkpoint=5),
        {"event": "end", "time": 100.0},
    ]
    shares = goodput(rows)
    assert sum(shares.values()) == pytest.approx(1)
    # Of steps 11-20 half is lost (10 s), of 21-30 all (10 s): 20 of 60 s of work.
    assert shares["redone"] == pytest.approx(0.2)
    assert shares["step"] == pytest.approx(0.58 * 2 / 3)
    assert shares["data"] == pytest.approx(0.02 * 2 / 3)
    assert shares["down"] == pytest.approx(0.2)
    assert shares["start"] == pytest.approx(0.1)
    assert format_goodput(shares).startswith("step 38.7%, ")
    assert "evaluation" not in format_goodput(shares)


def test_a_run_without_rows_has_no_shares():
    assert goodput([]) == {} and format_goodput({}) == ""
