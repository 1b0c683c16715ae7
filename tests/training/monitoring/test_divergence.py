# SPDX-License-Identifier: Apache-2.0
"""A run that diverges reports its steps, their records and the last checkpoint."""

import json

import pytest

from ldm_jax.training.monitoring.divergence import Diverged, DivergenceGuard


def feed(guard, bad, last=9):
    for step in range(1, last + 1):
        loss = float("nan") if step in bad else 1.0
        guard.check(step, {"loss": loss, "skipped": float(step in bad)})


def test_the_error_and_the_file_name_steps_records_and_checkpoint(tmp_path):
    records = lambda step: [100 * step + i for i in range(20)]  # noqa: E731
    guard = DivergenceGuard(tmp_path, 2, records, lambda: 4)
    with pytest.raises(Diverged) as error:
        feed(guard, bad=(3, 6, 7))
    message = str(error.value)
    assert "steps 6 to 7" in message and "loss nan in step 7" in message
    assert "records 600, 601" in message and "(20)" in message
    assert "checkpoint of step 4" in message and "is good" in message
    report = json.loads((tmp_path / "diverged.json").read_text())
    assert report["last_checkpoint"] == 4
    assert [entry["step"] for entry in report["steps"]] == [6, 7]
    # Step 6 is the sixth, and had the batch of step 5 counted from 0.
    assert report["steps"][0]["records"] == [500 + i for i in range(20)]
    assert report["steps"][0]["metrics"] == {"loss": "nan", "skipped": 1.0}


def test_the_first_bad_step_ends_a_run_that_tolerates_none(tmp_path):
    with pytest.raises(Diverged, match=r"steps 5 to 5.*there is no checkpoint yet"):
        feed(DivergenceGuard(tmp_path, 1), bad=(5,))


def test_bad_steps_apart_are_borne(tmp_path):
    feed(DivergenceGuard(tmp_path, 2), bad=(1, 3, 5, 7, 9))
    assert not list(tmp_path.iterdir())
