# SPDX-License-Identifier: Apache-2.0
"""LSUN's churches and bedrooms: scenes, as the lmdb of their makers or as files."""

import pathlib
from collections.abc import Callable
from typing import Any, ClassVar

from ldm_jax.data.builders.files import Files
from ldm_jax.data.builders.manual import (
    ManualBuilder,
    Split,
    by_digest,
    divide,
    images_only,
)
from ldm_jax.data.records import DamagedRecord

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
download.py of https://github.com/fyu/lsun, which needs `pip install lmdb`; or the
images exported from it (.webp or .jpg, named by their keys) in any folders. For the
paper's split, put church_outdoor_train.txt and church_outdoor_val.txt beside it, from
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
            folder = (files.root / database).parent
            names, example = _open_lmdb(folder)
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
of https://github.com/fyu/lsun, which needs `pip install lmdb`; or the images exported
from it (.webp or .jpg, named by their keys) in any folders. For the paper's split, put
bedrooms_train.txt and bedrooms_val.txt beside it, from
https://ommer-lab.com/files/lsun.zip."""
    COUNTS: ClassVar = {"train": 3_028_042, "validation": HELD_OUT}
    LISTS: ClassVar = {"train": "bedrooms_train.txt", "validation": "bedrooms_val.txt"}


def _key(name: str) -> str:
    """Returns the key of an image: its file's name without folder and ending."""
    return pathlib.PurePosixPath(name).stem


def _check_size(path: pathlib.Path, database: Any) -> None:
    """Raises ValueError if a database is cut off: it is mapped, and reading ends in it.

    A page that is not in the file would kill the process (SIGBUS).
    """
    pages, size = database.info()["last_pgno"] + 1, path.stat().st_size
    needed = pages * database.stat()["psize"]
    if size < needed:
        raise ValueError(f"data.mdb must have {needed} bytes, it has {size}")


def _open_lmdb(folder: pathlib.Path) -> tuple[list[str], Callable[[str], dict]]:
    """Lists the keys of a database, sorted, and returns what reads one of them."""
    try:
        import lmdb
    except ImportError as error:
        raise ValueError(
            f"{folder} is a database: reading it needs `pip install lmdb`."
        ) from error
    try:
        database = lmdb.open(str(folder), readonly=True, lock=False, readahead=False)
        _check_size(folder / "data.mdb", database)
        with database.begin() as reader:
            names = [
                bytes(key).decode() for key in reader.cursor().iternext(True, False)
            ]
    except (lmdb.Error, ValueError) as error:
        raise ValueError(
            f"{folder} is not a whole LSUN database: {error}. Download it again."
        ) from error

    def example(name: str) -> dict[str, Any]:
        with database.begin() as reader:
            data = reader.get(name.encode())
        if data is None:
            raise DamagedRecord(f"{name} is not in {folder}")
        return {"image": bytes(data)}

    return names, example
