# SPDX-License-Identifier: Apache-2.0
"""A run logs rows, pictures and rates, and nothing twice."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ldm_jax.training.monitoring.divergence import Diverged, DivergenceGuard
from ldm_jax.training.monitoring.metric_rows import append_row, read_rows
from ldm_jax.training.monitoring.report import Report


def metrics(loss, skipped=0.0):
    return {"loss": jnp.float32(loss), "skipped": jnp.float32(skipped)}


def report(directory, **changes):
    guard = DivergenceGuard(directory, max_skipped=3)
    fields = dict(num_steps=12, every=4, batch_size=2, guard=guard)
    return Report(directory, **{**fields, **changes})


def feed(r, first, last, skipped=()):
    for step in range(first, last + 1):
        r.add(step, metrics(step, step in skipped))


def test_a_row_holds_the_means_over_its_steps(tmp_path):
    """Oracle: the loss of step n is n."""
    with report(tmp_path) as r:
        r.start(0)
        feed(r, 1, 12, skipped=(6,))
        r.finish_pending()
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [4, 8, 12]
    assert [row["loss"] for row in rows] == [2.5, (5 + 7 + 8) / 3, 10.5]
    assert [row["skipped"] for row in rows] == [0, 1, 0]


def test_the_last_step_has_a_row_though_it_is_no_multiple(tmp_path):
    with report(tmp_path, num_steps=10) as r:
        r.start(0)
        feed(r, 1, 10)
        r.finish_pending()
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [4, 8, 10]


def test_no_step_is_logged_twice_after_a_resume(tmp_path):
    """Identity: saved at 6, killed at 11 and resumed is one undisturbed run."""
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir()
    with report(tmp_path / "whole") as r:
        r.start(0)
        feed(r, 1, 12)
        r.finish_pending()
    with report(tmp_path / "killed") as r:
        r.start(0)
        feed(r, 1, 6)
        saved = r.state()
        feed(r, 7, 11)
        r.evaluation(8, {"psnr": 1.0}, {})
        r.finish_pending()
    with open(tmp_path / "killed" / "metrics.jsonl", "a") as lines:
        lines.write('{"step": 12, "lo')
    with report(tmp_path / "killed") as r:
        r.start(6, saved)
        feed(r, 7, 12)
        r.finish_pending()
    killed, whole = (tmp_path / n / "metrics.jsonl" for n in ("killed", "whole"))
    assert killed.read_text() == whole.read_text()
    assert read_rows(tmp_path / "killed" / "evaluation.jsonl") == []


@pytest.mark.parametrize("name", ["report.html", "metrics.jsonl", "tensorboard"])
def test_names_of_another_kind_are_refused_before_the_first_step(tmp_path, name):
    if name == "tensorboard":
        (tmp_path / name).write_text("")
    else:
        (tmp_path / name).mkdir()
    with pytest.raises(OSError, match=rf"{name} must be a (file|folder)"):
        report(tmp_path)


def test_a_full_disk_is_reported_with_the_path_of_the_row():
    """F5: the device that is always full."""
    with pytest.raises(OSError, match=r"/dev/full \(.*GiB free\): .*No space left"):
        append_row("/dev/full", {"step": 1})


def test_too_many_skipped_steps_in_a_row_end_the_run_with_their_window(tmp_path):
    with report(tmp_path) as r:
        r.start(0)
        with pytest.raises(Diverged, match="steps 5 to 7"):
            feed(r, 1, 12, skipped=(2, 3, 5, 6, 7, 8))


def test_evaluations_are_rows_and_pictures(tmp_path):
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    with report(tmp_path) as r:
        r.start(0)
        r.evaluation(4, {"psnr": 20.5, "fid": float("nan")}, {"grid": image})
    assert read_rows(tmp_path / "evaluation.jsonl") == [
        {"step": 4, "psnr": 20.5, "fid": None}
    ]
    stored = Image.open(tmp_path / "images" / "grid_00000004.png")
    np.testing.assert_array_equal(np.asarray(stored), image)
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_the_progress_line_shows_step_loss_rate_and_time_left(tmp_path, capsys):
    with report(tmp_path, label="toy") as r:
        r.start(0)
        feed(r, 1, 12)
        r.finish_pending()
    line = capsys.readouterr().out.splitlines()[-1]
    for part in ("toy: step 12/12", "loss 12.0000", "s/step", "images/s", "left"):
        assert part in line
