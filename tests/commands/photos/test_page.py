# SPDX-License-Identifier: Apache-2.0
"""The report of a quickstart contains its pictures, figures and next commands."""

import numpy as np

from ldm_jax.commands.photos.page import write_photos_page
from ldm_jax.commands.photos.run import PhotosResult
from ldm_jax.files.formats.png import save_png
from ldm_jax.files.writing import write_json


def test_a_report_shows_everything(tmp_path):
    for name in ("samples.png", "reconstructions.png"):
        save_png(tmp_path / name, np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "config.py").write_text("choices = 1")
    for name in ("first_stage", "diffusion"):
        write_json(tmp_path / name / "config.json", {"task": name})
    result = PhotosResult(
        {"folder": "/<photos>"}, {"f": "4"}, {"psnr": 21.25}, {"look": 0.5}, ["ldm-jax"]
    )
    write_photos_page(tmp_path, result)
    page = (tmp_path / "report.html").read_text()
    for shown in ("21.25", "choices = 1", "/&lt;photos&gt;", "First stage", "Denoiser"):
        assert shown in page
    assert page.count("<img") == 2
