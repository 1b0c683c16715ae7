# SPDX-License-Identifier: Apache-2.0
"""Rows of finished evaluations are read from the folders of a study."""

import math

import pytest

from ldm_jax import study as front_door
from ldm_jax.study import rows as study_rows


def test_a_row_counts_images_flops_and_hours_up_to_its_checkpoint(written, arms):
    rows = front_door.results(written)
    assert [(row["arm"], row["step"], row["num_steps"]) for row in rows] == [
        ("f=2", 1, 2),
        ("f=2", 2, 2),
        ("f=2", 2, 1),
    ]
    last = rows[1]
    assert last["images"] == 2 * 8 and last["KD(random)"] == 2.0
    assert last["flops"] == 2 * arms["f=2"].cost.flops_per_step
    assert last["hours"] == 2 * 36.0 * 2 / 3600  # steps, seconds, devices
    assert last["images_per_second"] == 5.0


def test_the_last_rows_are_those_of_the_last_checkpoint(written):
    rows = study_rows.last_rows(study_rows.results(written))
    assert [row["num_steps"] for row in rows] == [2, 1]


def test_the_standard_error_is_that_over_seeds():
    """Oracle: deviation over the root of the number; none of one seed."""
    mean, error = study_rows.mean_and_error([1.0, 3.0])
    assert (mean, error) == (2.0, pytest.approx(math.sqrt(2) / math.sqrt(2)))
    assert study_rows.mean_and_error([1.0]) == (1.0, None)


def test_failures_and_warnings_are_listed_once(written):
    assert study_rows.failures(written) == {"evaluate/f=1/seed0": "it diverged"}
    assert study_rows.warnings_of(written) == ["few samples", "few images"]


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no study\.json; give the --out"):
        study_rows.results(tmp_path)
