# SPDX-License-Identifier: Apache-2.0
"""ImageNet and Places: photographs of objects with their classes, and of places."""

import re
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from ldm_jax.data.builders.files import Files
from ldm_jax.data.builders.manual import ManualBuilder, Split, images_only
from ldm_jax.files.reading import read_lines

SYNSET = re.compile(r"n\d{8}")
VALIDATION = re.compile(r"ILSVRC2012_val_(\d{8})")


class ImageNet(ManualBuilder):
    """ILSVRC-2012: 1,281,167 photographs of 1,000 classes, 50,000 to validate.

    A class's number is the rank of its synset, also where only some are there.

    Source: Deng et al. 2009; labels of the validation images as TFDS carries them.
    """

    name = "imagenet"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
The folder holds ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from
https://image-net.org (after registration), as they are; or what is in them: images to
train on in folders named by synset (train/n01440764/n01440764_10026.JPEG), and those to
validate on in a folder val/, by synset too or flat (val/ILSVRC2012_val_00000001.JPEG).
The layout of Kaggle's ILSVRC/Data/CLS-LOC fits as well."""
    COUNTS: ClassVar = {"train": 1_281_167, "validation": 50_000}

    def fields(self) -> dict[str, Any]:
        """Returns the label."""
        return {"label": tfds.features.ClassLabel(names=_lines("labels"))}

    def find(self, files: Files) -> dict[str, Split]:
        """Finds the splits."""
        rank = {synset: i for i, synset in enumerate(_lines("labels"))}
        by_number = _lines("validation_labels")
        splits: dict[str, dict[str, int]] = {"train": {}, "validation": {}}
        for name in files.names():
            parts = name.split("/")
            number = VALIDATION.match(parts[-1])
            synset = parts[-2] if len(parts) > 1 else ""
            if not SYNSET.fullmatch(synset):
                if not number:
                    continue  # the test images, which have no labels
                synset = by_number[int(number[1]) - 1]
            if synset not in rank:
                raise ValueError(
                    f"{files.root / name}: {synset} is not a synset of ILSVRC-2012. "
                    f"Remove it, or open the folder by its path."
                )
            held_out = number or {"val", "validation"} & set(parts[:-1])
            splits["validation" if held_out else "train"][name] = rank[synset]

        def split(labels: dict[str, int]) -> Split:
            return Split(
                list(labels),
                lambda name: {"image": files.read(name), "label": labels[name]},
            )

        return {name: split(labels) for name, labels in splits.items()}


class Places(ManualBuilder):
    """Places365: 1,803,460 photographs of scenes, without labels, for inpainting.

    Source: Zhou et al. 2018; used by Suvorov et al. 2022 and Rombach et al. 2022.
    """

    name = "places"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
The folder holds train_large_places365standard.tar and val_large.tar (and, optionally,
test_large.tar) from http://places2.csail.mit.edu/download.html, as they are, or what is
in them: data_large/, val_large/ and test_large/. Those of 256x256 (data_256/, val_256/,
test_256/) fit as well."""
    COUNTS: ClassVar = {"train": 1_803_460, "validation": 36_500, "test": 328_500}
    FOLDERS: ClassVar = {
        "train": ("data_large", "data_large_standard", "data_256", "data_256_standard"),
        "validation": ("val_large", "val_256"),
        "test": ("test_large", "test_256"),
    }

    def find(self, files: Files) -> dict[str, Split]:
        """Finds the splits."""
        return {
            split: Split(files.names(folder), images_only(files))
            for split, folders in self.FOLDERS.items()
            if (folder := files.first(*folders))
        }


def _lines(name: str) -> list[str]:
    """Reads a list that TFDS carries for ImageNet."""
    path = tfds.core.tfds_path("datasets/imagenet2012") / f"{name}.txt"
    return read_lines(path)
