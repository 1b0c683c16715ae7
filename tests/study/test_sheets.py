# SPDX-License-Identifier: Apache-2.0
"""Sheets show the same images for every finished arm, enlarged."""

import numpy as np

from ldm_jax.files.formats.pictures import read_image
from ldm_jax.study import results, sheets
from ldm_jax.study.rows import read_summary


def test_the_sheet_of_reconstructions_has_the_images_and_a_row_an_arm(written):
    (figure,) = sheets.of_reconstructions(written, read_summary(written))
    assert "Held-out images" in figure
    sheet = read_image(written / "plots/reconstructions.png")
    # Two rows of 8x8, eight times enlarged, with two pixels around each.
    assert sheet.shape[0] == 2 * (64 + 2) + 2


def test_samples_are_shown_along_the_budget_and_at_its_end(written):
    """Identity: the second sample of every point is the grey 100."""
    rows, summary = results(written), read_summary(written)
    assert len(sheets.of_samples(written, summary, rows)) == 3
    sheet = read_image(written / "plots/samples.png")
    assert np.all(sheet[2:66, -66:-2] == 100) and np.all(sheet[2:66, -132:-68] == 0)
    assert read_image(written / "plots/samples_over_training.png").shape[0] == 134


def test_an_arm_that_is_not_finished_has_no_samples(written):
    rows = [row for row in results(written) if row["step"] == 1]
    assert sheets.of_samples(written, read_summary(written), rows) == []
