# SPDX-License-Identifier: Apache-2.0
"""Images with captions in tar shards, as text-to-image sets are passed around."""

import json
from typing import Any

import tensorflow_datasets as tfds

from ldm_jax.data.builders.files import Files
from ldm_jax.data.builders.manual import ManualBuilder, Split
from ldm_jax.data.records import DamagedRecord


class ImageText(ManualBuilder):
    """Pairs of image and caption (LAION, Conceptual Captions) from local shards.

    An image without a caption is left out.

    Source: the layout of WebDataset, which img2dataset writes.
    """

    name = "image_text"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
The folder holds tars (00000.tar, ...) with, for every key, an image key.jpg (.png,
.webp) and its caption, key.txt, or key.json with a "caption"; img2dataset writes such
tars from lists of addresses (LAION, Conceptual Captions). Unpacked they fit as well.
Folders train/ and validation/ (or val/), if there, are the splits; otherwise all is
train, and config.images.split "train[:99%]" divides it."""
    FOLDERS = (("train", "train"), ("validation", "validation"), ("validation", "val"))
    ARCHIVE_FOLDERS = True  # keys often begin anew in every tar
    max_refused = 10_000  # sets from the web lack captions here and there

    def fields(self) -> dict[str, Any]:
        """Returns the captions."""
        return {"captions": tfds.features.Sequence(tfds.features.Text())}

    def find(self, files: Files) -> dict[str, Split]:
        """Finds the splits."""

        def example(name: str) -> dict[str, Any]:
            caption = _caption(files, name.rpartition(".")[0])
            if not caption:
                raise DamagedRecord(f"{name} has no caption")
            return {"image": files.read(name), "captions": [caption]}

        found = {
            split: files.names(folder)
            for split, folder in self.FOLDERS
            if files.first(folder)
        }
        found = found or {"train": files.names()}
        return {split: Split(names, example) for split, names in found.items()}


def _caption(files: Files, key: str) -> str:
    try:
        if f"{key}.txt" in files:
            return files.read(f"{key}.txt").decode("utf-8").strip()
        if f"{key}.json" in files:
            facts = json.loads(files.read(f"{key}.json"))
            return str(facts.get("caption") or "").strip()
    except (ValueError, AttributeError) as error:
        raise DamagedRecord(f"the caption of {key} cannot be read: {error}") from error
    return ""
