# SPDX-License-Identifier: Apache-2.0
"""Surveys describe a folder: pictures, sizes, classes, captions."""

import numpy as np
import pytest

from ldm_jax.data.images.folder import FolderSource
from ldm_jax.data.images.survey import survey
from ldm_jax.files.formats.png import save_png


def make(folder, classes=("a", "b"), count=20, size=(20, 30)):
    for name in classes:
        for i in range(count):
            image = np.full((*size, 3), i, np.uint8)
            save_png(folder / name / f"{i}.png", image)
    return folder


def test_a_folder_is_counted(tmp_path):
    (make(tmp_path) / "a" / "torn.jpg").write_bytes(b"no picture")
    summary = survey(str(tmp_path))
    assert summary.count == 40 and dict(summary.classes) == {"a": 20, "b": 20}
    assert dict(summary.formats) == {".png": 40} and summary.captions is None
    assert summary.short_sides.tolist() == [20] * 40
    assert len(summary.left_out) == 1 and "torn.jpg" in summary.left_out[0]
    lines = summary.describe()
    assert "torn.jpg" in lines["left out"] and lines["short side"] == "20 pixels"
    save_png(tmp_path / "a" / "large.png", np.zeros((40, 50, 3), np.uint8))
    lines = survey(str(tmp_path)).describe()
    assert lines["short side"] == "20 to 40 pixels, 20 in the middle"


def test_what_is_left_out_is_listed_once(tmp_path, caplog):
    """In the description, not also in a warning; the first ten lines."""
    make(tmp_path, classes=("",), count=2)
    for i in range(11):
        (tmp_path / f"torn {i:02d}.jpg").write_bytes(b"no picture")
    lines = survey(str(tmp_path)).describe()["left out"].splitlines()
    assert lines[0] == "11:" and lines[-1] == "..." and len(lines) == 12
    assert caplog.text == ""


def test_what_a_survey_lists_is_not_listed_again_by_the_steps_that_follow(
    tmp_path, caplog
):
    """The training, the encoding and the figures open the surveyed folder again."""
    (make(tmp_path) / "a" / "torn.jpg").write_bytes(b"no picture")
    survey(str(tmp_path))
    for split in ("all", "train", "train"):
        assert FolderSource(tmp_path, split).refused
    assert caplog.text == ""
    (tmp_path / "a" / "new.jpg").write_bytes(b"no picture")
    for _ in range(2):
        FolderSource(tmp_path)
    assert caplog.text.count("new.jpg") == 1


def test_pictures_held_out_are_those_of_the_split(tmp_path):
    """Identity: the count is that of the split "test"."""
    make(tmp_path, count=60)
    assert survey(str(tmp_path)).num_held_out == len(FolderSource(tmp_path, "test"))


@pytest.mark.parametrize("name", ["captions.csv", "txt"])
def test_captions_are_found(name, tmp_path):
    make(tmp_path, classes=("",), count=4)
    if name == "txt":
        for i in range(4):
            (tmp_path / f"{i}.txt").write_text(f"number {i}")
    else:
        lines = ["file,caption", *(f"{i}.png,number {i}" for i in range(4))]
        (tmp_path / name).write_text("\n".join(lines))
    assert survey(str(tmp_path)).captions == name


def test_one_note_among_pictures_is_not_a_caption(tmp_path):
    make(tmp_path, classes=("",), count=4)
    (tmp_path / "0.txt").write_text("a note")
    summary = survey(str(tmp_path))
    assert summary.captions is None and summary.count == 4


def test_a_changed_folder_has_another_fingerprint(tmp_path):
    before = survey(str(make(tmp_path))).fingerprint
    save_png(tmp_path / "a" / "new.png", np.zeros((20, 30, 3), np.uint8))
    assert survey(str(tmp_path)).fingerprint != before


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no image file"):
        survey(str(tmp_path))
    with pytest.raises(ValueError, match="is not a directory"):
        survey(str(tmp_path / "none"))
