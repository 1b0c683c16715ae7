# SPDX-License-Identifier: Apache-2.0
"""Images with captions in tar or parquet files, the usual formats of such sets."""

from collections.abc import Sequence
from typing import Any

import tensorflow_datasets as tfds

from ldm_jax.data.builders.files import IMAGES, Files
from ldm_jax.data.builders.manual import ManualBuilder, Split
from ldm_jax.data.builders.tables import Tables
from ldm_jax.data.records import DamagedRecord
from ldm_jax.files.formats.structured import parse_json
from ldm_jax.files.reading import decoded


class ImageText(ManualBuilder):
    """Pairs of image and caption (LAION, Conceptual Captions) from local shards.

    An image without a caption is left out.

    Source: the layout of WebDataset, which img2dataset writes; parquet as it and
    Hugging Face's datasets write it.
    """

    name = "image_text"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
The folder holds tars (00000.tar, ...) with, for every key, an image key.jpg (.png,
.webp) and its caption, key.txt, or key.json with a "caption"; img2dataset writes such
tars from lists of addresses (LAION, Conceptual Captions). Unpacked they fit as well.
Or it holds parquet files, with the columns "image" (or "jpg", "png", "webp"), bytes of
a file, and "caption" (or "captions", "text", "txt").
Folders train/ and validation/ (or val/), if there, are the splits, or else the
beginnings of the parquet files' names (train-00000-of-00010.parquet); otherwise all
is train, and config.images.split "train[:99%]" divides it."""
    FOLDERS = (("train", "train"), ("validation", "validation"), ("validation", "val"))
    ARCHIVE_FOLDERS = True  # keys often restart in every tar
    max_refused = 10_000  # sets from the web lack captions here and there

    def fields(self) -> dict[str, Any]:
        """Returns the captions."""
        return {"captions": tfds.features.Sequence(tfds.features.Text())}

    def find(self, files: Files) -> dict[str, Split]:
        """Finds the splits."""
        names = files.names(suffixes=(*IMAGES, ".parquet"))
        splits = {name: self._split(name) for name in names}
        if not any(splits.values()):
            return {"train": _pairs(files, names)}
        return {
            split: _pairs(files, [name for name in names if splits[name] == split])
            for split in ("train", "validation")
        }

    def _split(self, name: str) -> str:
        """Returns the split named by a file's folder, or by a parquet file; or ""."""
        folder, file = name.partition("/")[0], name.rpartition("/")[2]
        for split, word in self.FOLDERS:
            is_named = file.startswith(f"{word}-") and file.endswith(".parquet")
            if is_named or (folder == word and folder != name):
                return split
        return ""


def _pairs(files: Files, names: Sequence[str]) -> Split:
    """Makes the split of images, and of rows of parquet files, that have captions."""
    tables = Tables(files, [name for name in names if name.endswith(".parquet")])
    images = [name for name in names if not name.endswith(".parquet")]

    def example(name: str) -> dict[str, Any]:
        if name in tables:
            return tables.example(name)
        caption = _caption(files, name.rpartition(".")[0])
        if not caption:
            raise DamagedRecord(f"{name} has no caption")
        return {"image": files.read(name), "captions": [caption]}

    def size(name: str) -> int:
        return tables.size(name) if name in tables else len(files.read(name))

    return Split([*images, *tables.names()], example, size)


def _caption(files: Files, key: str) -> str:
    if f"{key}.txt" in files:
        return decoded(files.read(f"{key}.txt"), f"{key}.txt").strip()
    if f"{key}.json" in files:
        metadata = parse_json(files.read(f"{key}.json"), f"{key}.json")
        return str(metadata.get("caption") or "").strip()
    return ""
