# SPDX-License-Identifier: Apache-2.0
"""A tiny study from photographs to its report; run again, it does nothing."""

import pathlib

import numpy as np

from ldm_jax.study import engine, results
from ldm_jax.study.work import evaluation_points
from tests.study.conftest import SIDE


def test_points_are_evenly_spaced_and_the_last_is_sampled_with_all_steps(study):
    points = evaluation_points(study, 8)
    assert sorted(points.values()) == [(4, 2), (8, 1), (8, 2)]


def test_a_study_runs_whole_and_once(study, tmp_path, capsys):
    engine.run_study(study, str(tmp_path))
    rows = results(tmp_path)
    assert [(row["arm"], row["step"], row["num_steps"]) for row in rows] == [
        *(("f=1", 1, 2), ("f=1", 2, 2), ("f=1", 2, 1)),
        *(("f=2", 1, 2), ("f=2", 2, 2), ("f=2", 2, 1)),
    ]
    assert all(np.isfinite(row["KD(random)"]) for row in rows)
    assert all(row["images_per_second"] > 0 for row in rows)
    images = sorted((tmp_path / rows[0]["folder"] / "images").glob("0*.png"))
    assert len(images) == study.num_shown
    text = (tmp_path / "index.html").read_text()
    assert "Not finished yet" not in text and "R-FD(random)" in text
    stage = next((tmp_path / "reconstructions").iterdir())
    from PIL import Image

    assert Image.open(stage / "originals.png").size == (2 * SIDE, SIDE)
    before = written_at(tmp_path)
    capsys.readouterr()
    engine.run_study(study, str(tmp_path))
    assert written_at(tmp_path) == before
    assert "[" not in capsys.readouterr().out


def written_at(root: pathlib.Path):
    return {path: path.stat().st_mtime_ns for path in root.rglob("result.json")}
