# SPDX-License-Identifier: Apache-2.0
"""Images that cannot be opened end a study before its first stage."""

import dataclasses

import pytest

from ldm_jax.study import engine
from ldm_jax.study.images import check_images
from ldm_jax.study.stages import make_stages


@pytest.mark.parametrize("is_there", [False, True], ids=["missing", "empty"])
def test_a_folder_without_images_is_refused_before_any_stage(
    is_there, study, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "none"
    if is_there:
        folder.mkdir()
    study = dataclasses.replace(study, images=dict(study.images, dataset=str(folder)))
    with pytest.raises(ValueError) as error:
        engine.run_study(study, str(tmp_path / "out"))
    line = str(error.value)
    assert str(folder) in line and "\n" not in line and "stages" not in line
    assert "[1/" not in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_images_are_opened_once_for_each_split_that_stages_read(
    study, arms, monkeypatch
):
    opened = []
    monkeypatch.setattr(
        "ldm_jax.study.images.open_images", lambda **images: opened.append(images)
    )
    stages = make_stages(study, arms, "out")
    check_images(study, arms, stages)
    assert all(opened.count(images) == 1 for images in opened)
    assert {images["split"] for images in opened} == {"train", "test"}
    assert {images["dataset"] for images in opened} == {study.images["dataset"]}
    opened.clear()
    check_images(study, arms, [s for s in stages if s.kind == "evaluate"])
    check_images(study, arms, [])
    assert not opened
