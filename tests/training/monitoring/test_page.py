# SPDX-License-Identifier: Apache-2.0
"""The page of a run: the time of writing, and its contents."""

import numpy as np

from ldm_jax.training.monitoring.metric_rows import read_rows
from ldm_jax.training.monitoring.page import PAGE, run_parts
from tests.training.monitoring.test_report import feed, report


def test_the_page_is_written_at_each_evaluation_and_at_the_end(tmp_path):
    with report(tmp_path, config={"seed": 7}) as r:
        r.start(0)
        r.begin_steps(0)
        feed(r, 1, 4)
        r.finish_pending()
        picture = np.full((4, 4, 3), 9, np.uint8)
        r.evaluation(4, {"psnr": 21.5}, {"samples": picture})
        first = (tmp_path / PAGE).read_text()
        feed(r, 5, 12)
        r.finish_pending()
    last = (tmp_path / PAGE).read_text()
    for shown in ("psnr", "21.5", "Samples", "step 4", "Loss and rate"):
        assert shown in first
    assert "share of the time" in last and "&quot;seed&quot;: 7" in last
    assert "http" not in last and "<script" not in last


def test_of_many_sheets_the_first_and_the_last_are_shown(tmp_path):
    picture = np.zeros((2, 2, 3), np.uint8)
    with report(tmp_path, num_steps=40) as r:
        r.start(0)
        for step in range(4, 41, 4):
            r.images(step, {"samples": picture})
    page = "".join(run_parts(tmp_path))
    assert page.count("<img") == 4
    assert page.index("step 40") < page.index("step 4<")


def test_figures_at_noise_levels_are_curves_over_t_of_the_first_and_last(tmp_path):
    with report(tmp_path) as r:
        r.start(0)
        r.begin_steps(0)
        for step, low in ((4, 0.5), (8, 0.7), (12, 0.9)):
            feed(r, step - 3, step)
            r.finish_pending()
            figures = {"accuracy_t/0000": low, "accuracy_t/0900": 0.1}
            r.evaluation(step, {"accuracy": low, **figures}, {})
    page = "".join(run_parts(tmp_path))
    assert page.count("accuracy by noise level t</figcaption>") == 1
    curve = page[: page.index("accuracy by noise level t</figcaption>")]
    curve = curve[curve.rindex("<figure>") :]
    assert "step 4<" in curve and "step 12<" in curve and "step 8<" not in curve
    assert "900" in curve and curve.count("<circle") == 4
    assert "accuracy_t" not in page


def test_images_and_epochs_are_logged(tmp_path):
    """Oracle: two images a step, of a set of eight."""
    with report(tmp_path, num_records=8) as r:
        r.start(0)
        feed(r, 1, 12)
        r.finish_pending()
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["images"] for row in rows] == [8, 16, 24]
    assert [row["epochs"] for row in rows] == [1, 2, 3]


def test_a_run_without_rows_has_a_page_too(tmp_path):
    assert "none yet" in "".join(run_parts(tmp_path))


def test_a_run_killed_before_the_page_writes_it_when_it_is_started_again(tmp_path):
    """Though no step is left: the same command finishes the working directory."""
    with report(tmp_path) as r:
        r.start(0)
        feed(r, 1, 12)
        r.finish_pending()
    (tmp_path / PAGE).unlink()
    with report(tmp_path) as r:
        r.start(12)
    assert (tmp_path / PAGE).read_text()
