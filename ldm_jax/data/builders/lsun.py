# SPDX-License-Identifier: Apache-2.0
"""LSUN's churches and bedrooms, from the published lmdb or from files."""

import pathlib
from collections.abc import Callable
from typing import Any, ClassVar

from ldm_jax.data.builders.files import MAX_FILE_MIB, Files
from ldm_jax.data.builders.manual import (
    ManualBuilder,
    Split,
    by_digest,
    divide,
    images_only,
)
from ldm_jax.files.formats.lmdb import Lmdb

HELD_OUT = 5_000


class LSUNChurches(ManualBuilder):
    """LSUN's outdoor churches: 126,227 scenes, 5,000 of them held out.

    The paper's lists are used if they are there; otherwise "validation" is as many
    images (a tenth at most), chosen by the digests of their names.

    Source: Yu et al. 2015; split of Rombach et al. 2022.
    """

    name = "lsun_churches"
    CATEGORY = "church_outdoor"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
The folder holds church_outdoor_train_lmdb/ (data.mdb and lock.mdb, unpacked), from
download.py of https://github.com/fyu/lsun; or the images exported from it (.webp or
.jpg, named by their keys) in any folders. For the paper's split, put
church_outdoor_train.txt and church_outdoor_val.txt next to it, from
https://ommer-lab.com/files/lsun.zip."""
    COUNTS: ClassVar = {"train": 121_227, "validation": HELD_OUT}
    LISTS: ClassVar = {
        "train": "church_outdoor_train.txt",
        "validation": "church_outdoor_val.txt",
    }

    def find(self, files: Files) -> dict[str, Split]:
        """Finds the splits."""
        database = files.find(f"{self.CATEGORY}_train_lmdb/data.mdb", "data.mdb")
        if database:
            opened = Lmdb(files.path(database))
            names, example = opened.names, _images_of(opened)
        else:
            names, example = files.names(), images_only(files)
        divided = divide(
            files, names, _key, self.LISTS, lambda n: by_digest(n, _key, HELD_OUT)
        )
        return {split: Split(images, example) for split, images in divided.items()}


class LSUNBedrooms(LSUNChurches):
    """LSUN's bedrooms: 3,033,042 scenes, 5,000 of them held out.

    The paper's lists are used if they are there; otherwise "validation" is as many
    images (a tenth at most), chosen by the digests of their names.

    Source: Yu et al. 2015; split of Rombach et al. 2022.
    """

    name = "lsun_bedrooms"
    CATEGORY = "bedroom"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
The folder holds bedroom_train_lmdb/ (data.mdb and lock.mdb, unpacked), from download.py
of https://github.com/fyu/lsun; or the images exported from it (.webp or .jpg, named by
their keys) in any folders. For the paper's split, put
bedrooms_train.txt and bedrooms_val.txt next to it, from
https://ommer-lab.com/files/lsun.zip."""
    COUNTS: ClassVar = {"train": 3_028_042, "validation": HELD_OUT}
    LISTS: ClassVar = {"train": "bedrooms_train.txt", "validation": "bedrooms_val.txt"}


def _key(name: str) -> str:
    """Returns the key of an image: its file's name without folder and ending."""
    return pathlib.PurePosixPath(name).stem


def _images_of(database: Lmdb) -> Callable[[str], dict[str, Any]]:
    """Makes the `example` of a database."""
    return lambda name: {"image": database.read(name, MAX_FILE_MIB * 2**20)}
