# SPDX-License-Identifier: Apache-2.0
"""Images that guide samples by command: read, noted, and refused where they misfit."""

import numpy as np
import pytest
from PIL import Image

from ldm_jax.experiment.guiding.image_guide import GuidingImages
from ldm_jax.tasks.guides import ImageGuide


def write(folder, num, side=8):
    folder.mkdir(exist_ok=True)
    for i in range(num):
        image = np.full((side, side, 3), 50 * i, np.uint8)
        Image.fromarray(image).save(folder / f"{i}.png")
    return str(folder)


def test_a_folder_gives_one_guide_for_each_sample(tmp_path):
    folder = write(tmp_path / "guides", 3)
    images, lpips = GuidingImages(folder, ImageGuide(transform="down2")).open((16, 16))
    assert images.shape == (3, 8, 8, 3) and lpips == {}
    np.testing.assert_allclose(images[:, 0, 0, 0], np.arange(3) * 50 / 127.5 - 1)
    one, _ = GuidingImages(f"{folder}/1.png").open((8, 8))
    np.testing.assert_array_equal(one, images[1:2])


def test_a_guide_of_another_size_is_refused_by_its_size(tmp_path):
    folder = write(tmp_path / "guides", 1)
    with pytest.raises(ValueError, match="16x16 for samples of 32x32: got 8x8"):
        GuidingImages(folder, ImageGuide(transform="down2")).open((32, 32))


def test_lpips_and_its_file_go_together():
    with pytest.raises(ValueError, match=r"no file.*--guide-lpips FILE"):
        GuidingImages("x.png", ImageGuide("lpips"))
    with pytest.raises(ValueError, match=r'distance "l2" and weights'):
        GuidingImages("x.png", ImageGuide(), "weights")


def test_what_guides_is_noted():
    guide = GuidingImages("x.png", ImageGuide(scale=0.5, interval=(3, 900)))
    noted = guide.to_dict()
    assert noted["images"] == "x.png" and noted["scale"] == 0.5
    assert noted["interval"] == [3, 900] and noted["distance"] == "l2"
