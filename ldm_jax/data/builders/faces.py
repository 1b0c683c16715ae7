# SPDX-License-Identifier: Apache-2.0
"""CelebA-HQ and FFHQ: faces, cropped and aligned by their authors."""

import io
import pathlib
import re
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from ldm_jax.data.builders.files import IMAGES, Files
from ldm_jax.data.builders.manual import ManualBuilder, Split, divide
from ldm_jax.data.records import DamagedRecord
from ldm_jax.files.formats.arrays import parse_npy


class FFHQ(ManualBuilder):
    """Flickr-Faces-HQ: 70,000 faces, 60,000 to train on.

    The paper's lists are used if they are there; otherwise the last seventh of the
    images, by number, is "validation", as the makers of the set say.

    Source: Karras et al. 2019; split of Esser et al. 2021, which Rombach et al. use.
    """

    name = "ffhq"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
The folder holds images1024x1024/ (or thumbnails of 256x256, or any folders of images
named by their number, 00000.png to 69999.png), or a tar or zip of them, from
https://github.com/NVlabs/ffhq-dataset. For the paper's split, put ffhqtrain.txt and
ffhqvalidation.txt next to it, from data/ of
https://github.com/CompVis/taming-transformers."""
    COUNTS: ClassVar = {"train": 60_000, "validation": 10_000}
    LISTS: ClassVar = {"train": "ffhqtrain.txt", "validation": "ffhqvalidation.txt"}
    HELD_OUT = 1 / 7

    def find(self, files: Files) -> dict[str, Split]:
        """Finds the splits."""
        folder = files.first("images1024x1024")  # not the folder of thumbnails
        names = sorted(files.names(folder, (*IMAGES, ".npy")), key=_number)

        def last(names):
            return names[len(names) - round(len(names) * self.HELD_OUT) :]

        divided = divide(files, names, _number, self.LISTS, last)

        def example(name: str) -> dict[str, Any]:
            data = files.read(name)
            return {"image": _png(data, name) if name.endswith(".npy") else data}

        return {split: Split(files, example) for split, files in divided.items()}


class CelebAHQ(FFHQ):
    """CelebA-HQ: 30,000 faces of celebrities, 25,000 to train on.

    The paper's lists are used if they are there; otherwise the last sixth of the
    images, by number, is "validation".

    Source: Karras et al. 2018; split of Esser et al. 2021, which Rombach et al. use.
    """

    name = "celebahq"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
The folder holds the 30,000 images by number: imgHQ00000.npy to imgHQ29999.npy as
https://github.com/tkarras/progressive_growing_of_gans makes them, or files like
00000.jpg of any size in a folder, tar or zip. For the paper's split, put
celebahqtrain.txt and celebahqvalidation.txt next to them, from data/ of
https://github.com/CompVis/taming-transformers."""
    COUNTS: ClassVar = {"train": 25_000, "validation": 5_000}
    LISTS: ClassVar = {
        "train": "celebahqtrain.txt",
        "validation": "celebahqvalidation.txt",
    }
    HELD_OUT = 1 / 6


def _number(name: str) -> tuple[int, str]:
    """Returns the last number in a file's name, and the name if it has none."""
    stem = pathlib.PurePosixPath(name).stem
    digits = re.findall(r"\d+", stem)
    return (int(digits[-1]), "") if digits else (-1, stem)


def _png(data: bytes, name: str) -> bytes:
    """Turns an array uint8 [1, 3, H, W] into a PNG."""
    image = parse_npy(data, name)
    shape = image.shape[-3:]
    if image.dtype != np.uint8 or len(shape) != 3 or shape[0] != 3 or not image.size:
        raise DamagedRecord(
            f"{name} must be uint8 [1, 3, H, W]: got {image.dtype} {image.shape}"
        )
    png = io.BytesIO()
    image = image.reshape(shape)  # one image: more do not fit
    Image.fromarray(image.transpose(1, 2, 0)).save(png, "PNG")
    return png.getvalue()
