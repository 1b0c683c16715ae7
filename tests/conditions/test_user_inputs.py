# SPDX-License-Identifier: Apache-2.0
"""Files that users give are read as training reads its pictures, or refused."""

import os

import numpy as np
import pytest
from PIL import Image

from ldm_jax.conditions.user_inputs import pictures, to_image, to_mask


def _turned(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (32, 16)).save(path, "JPEG", exif=exif)


def _grey_of_16_bits(path):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)
    Image.fromarray(np.tile(ramp, (4, 1))).save(path, "PNG")


def _clear(path):
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(path, "PNG")


@pytest.mark.parametrize(
    ("make", "shape", "mean"),
    [(_turned, (32, 16, 3), -1), (_grey_of_16_bits, (4, 256, 3), 0), (_clear, None, 1)],
)
def test_images_are_decoded_as_for_training(tmp_path, make, shape, mean):
    """Oracle: upright, the upper 8 of 16 bits, over white."""
    make(tmp_path / "x.png")
    image = to_image(str(tmp_path / "x.png"))
    assert image.dtype == np.float32 and image.shape == (shape or (4, 4, 3))
    assert image.mean() == pytest.approx(mean, abs=1e-6)


def test_an_image_in_a_format_that_runs_programs_is_refused(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    with pytest.raises(ValueError, match=r"x\.png must be readable"):
        to_image(path)


@pytest.mark.parametrize("read", [to_image, to_mask])
def test_a_file_that_is_no_regular_one_is_refused(tmp_path, read):
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(ValueError, match="is a FIFO"):
        read(tmp_path / "x.png")


def test_a_mask_that_is_drawn_in_the_alpha_channel_is_refused(tmp_path):
    mask = Image.new("RGBA", (4, 4), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 2, 4))
    mask.save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match=r"mask\.png.*alpha extract"):
        to_mask(tmp_path / "mask.png")


def test_side_files_in_a_folder_are_no_pictures(tmp_path):
    for name in (".DS_Store", "._a.png", "Thumbs.db", "b.PNG", "a.jfif", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in pictures(str(tmp_path))] == ["a.jfif", "b.PNG"]
