# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax evaluate --nearest`: the sheet, the distances, and errors."""

import json

import numpy as np
import pytest
from PIL import Image

from ldm_jax import cli
from ldm_jax.commands.evaluation import nearest_sheet
from ldm_jax.experiment.config.config_files import load_config
from ldm_jax.files.writing import write_json

SIDE = 16


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Grey training images, two samples, and LPIPS that compares their mean."""
    for name, values in (
        ("train", range(0, 250, 25)),
        ("samples", (50, 110)),
        ("held", (10, 30)),
    ):
        (tmp_path / name).mkdir()
        for i, value in enumerate(values):
            image = np.full((SIDE, SIDE, 3), value, np.uint8)
            Image.fromarray(image).save(tmp_path / name / f"{i:02}.png")
    config = load_config("small", [f"--config.images.dataset={tmp_path / 'train'}"])
    config.transform.image_size = SIDE
    write_json(tmp_path / "stage" / "config.json", config.to_dict())

    class Search:
        def __init__(self, trunk, params, read, count):
            self.train = read(range(count))[:, 0, 0, 0].astype(float)

        def nearest(self, image, k):
            distance = abs(image[:, 0, 0, 0][:, None] - self.train) / 100
            order = np.argsort(distance, axis=1, kind="stable")[:, :k]
            distances = np.take_along_axis(distance, order, 1)
            return nearest_sheet.NearestImages(order, distances)

    monkeypatch.setattr(nearest_sheet, "PerceptualSearch", Search)
    monkeypatch.setattr(nearest_sheet.LpipsFile, "load", lambda self, trunk: {})
    monkeypatch.setattr(nearest_sheet, "first_stage_of", lambda path: (path, config))
    return tmp_path


def test_samples_are_shown_beside_their_nearest_images(root, capsys):
    """Oracle: greys 50 and 110 among multiples of 25; held-out 10 and 30."""
    argv = ["evaluate", f"--images={root / 'samples'}", f"--like={root / 'stage'}"]
    argv += ["--nearest=3", "--lpips-weights=x", f"--out={root / 'out'}"]
    assert cli.main([*argv, f"--held-out={root / 'held'}"]) == 0
    result = json.loads((root / "out/nearest.json").read_text())
    first, second = result["samples"]
    assert first["image"] == "00" and first["nearest"][0] == {"index": 2, "distance": 0}
    assert [entry["index"] for entry in second["nearest"]] == [4, 5, 3]
    assert result["median distance of samples"] == pytest.approx(0.05)
    assert result["median distance of held-out images"] == pytest.approx(0.075)
    sheet = np.asarray(Image.open(root / "out/nearest.png"))
    greys = [sheet[60, 2 + 130 * column + 60, 0] for column in range(4)]
    assert greys == [50, 50, 25, 75]
    assert "median distance of samples: 0.0500" in capsys.readouterr().out


def test_what_is_missing_is_named(root, capsys):
    argv = ["evaluate", f"--images={root / 'samples'}", f"--out={root / 'out'}"]
    assert cli.main([*argv, "--nearest=3"]) == 2
    assert cli.main([*argv, "--nearest=3", f"--like={root / 'stage'}"]) == 2
    assert cli.main([*argv, f"--like={root / 'stage'}"]) == 2
    errors = capsys.readouterr().err
    assert "--like None; give both" in errors
    assert "got no --lpips-weights" in errors
    assert "an evaluation without --nearest takes no like" in errors
