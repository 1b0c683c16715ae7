# SPDX-License-Identifier: Apache-2.0
"""The report is one folder of local files, also of an unfinished study."""

import json
import re

from ldm_jax.files.writing import write_json
from ldm_jax.study.report import write_study_report
from ldm_jax.study.rows import summary_of


def test_the_report_contains_its_pictures_and_names_what_is_missing(written):
    write_study_report(written)
    text = (written / "index.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    for words in (
        "Not finished yet: f=1, seed 0",
        "evaluate/f=1/seed0",
        "it diverged",
        "not InceptionV3",
        "Warning: few samples",
        "At the end of the budget, best first: f=2 2",
    ):
        assert words in text, words
    assert "FID (" not in text
    plots = {path.name for path in (written / "plots").iterdir()}
    assert {"kd_random_over_flops.png", "kd_random_over_flops.svg"} <= plots
    assert {
        "kd_random_over_speed.svg",
        "psnr_over_f.svg",
        "reconstructions.png",
    } <= plots
    assert {"samples.png", "samples_over_training.png"} <= plots
    rows = (written / "results.jsonl").read_text().splitlines()
    assert len(rows) == 3 and json.loads(rows[0])["arm"] == "f=2"
    assert (written / "table.md").read_text().count("\n") == 4


def test_a_study_that_has_just_begun_has_a_report_too(study, arms, tmp_path):
    write_json(tmp_path / "study.json", summary_of(study, arms))
    write_study_report(tmp_path)
    text = (tmp_path / "index.html").read_text()
    assert "Not finished yet: f=1, seed 0; f=2, seed 0" in text
