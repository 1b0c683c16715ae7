# SPDX-License-Identifier: Apache-2.0
"""The sheet and the array of all samples."""

import numpy as np
import pytest
from PIL import Image

from ldm_jax.commands.sampling.sample_sheets import name_conditions, write_sheets
from ldm_jax.conditions.registry import make_condition
from ldm_jax.files.formats import png


@pytest.fixture
def files(tmp_path):
    files = [tmp_path / f"{i:06d}.png" for i in range(6)]
    for i, file in enumerate(files):
        png.save_png(file, np.full((16, 16, 3), 40 * i, np.uint8))
    return files


def test_the_array_is_that_of_the_images(files):
    """Identity."""
    write_sheets(files, True, [])
    array = np.load(files[0].parent / "samples.npz")["arr_0"]
    assert array.shape == (6, 16, 16, 3) and array.dtype == np.uint8
    assert array[:, 0, 0, 0].tolist() == [40 * i for i in range(6)]


@pytest.mark.parametrize(("captions", "columns"), [((), 3), (("a", "b"), 2)])
def test_a_column_is_a_condition(captions, columns, files):
    write_sheets(files, False, captions)
    sheet = Image.open(files[0].parent / "grid.png")
    assert sheet.width == columns * (128 + 2) + 2


def test_conditions_are_named_by_class_or_prompt():
    names = ("daisy", "rose")
    classes = make_condition("class", num_classes=2, class_names=names)
    y = classes.from_user("rose,0")
    assert name_conditions(classes, {"class_label": "rose,0"}, y) == ["rose", "daisy"]
    text = make_condition("text", width=8, depth=1, length=8)
    assert name_conditions(text, {"text": "a rose"}, {}) == ["a rose"]
    assert name_conditions(text, {"text": "prompts.txt"}, {}) == []
    assert name_conditions(make_condition("none"), {}, {}) == []
