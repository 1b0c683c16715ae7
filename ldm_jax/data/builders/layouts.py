# SPDX-License-Identifier: Apache-2.0
"""COCO and landscapes: photographs with captions, boxes, label maps."""

import pathlib
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from ldm_jax.data.builders.files import Files
from ldm_jax.data.builders.manual import ManualBuilder, Split, by_digest, divide
from ldm_jax.data.images.annotations import parse_captions
from ldm_jax.data.images.boxes import parse_boxes
from ldm_jax.data.records import DamagedRecord
from ldm_jax.files.errors import UnreadableFile


class COCO(ManualBuilder):
    """COCO 2017: 118,287 photographs with captions and boxes of 80 classes.

    Regions of crowds are boxes like others, as for the paper's models.

    Source: Lin et al. 2014, Chen et al. 2015 (captions).
    """

    name = "coco2017"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
The folder holds train2017.zip, val2017.zip and annotations_trainval2017.zip from
https://cocodataset.org/#download, as they are, or what is in them: train2017/, val2017/
and annotations/ (captions_*.json and instances_*.json)."""
    COUNTS: ClassVar = {"train": 118_287, "validation": 5_000}
    FOLDERS: ClassVar = {"train": "train2017", "validation": "val2017"}

    def fields(self) -> dict[str, Any]:
        """Returns captions and objects."""
        return {"captions": tfds.features.Sequence(tfds.features.Text()), **objects()}

    def find(self, files: Files) -> dict[str, Split]:
        """Finds the splits."""
        return {
            split: self._split(files, folder)
            for split, folder in self.FOLDERS.items()
            if files.names(folder)
        }

    def _split(self, files: Files, folder: str) -> Split:
        paths = [f"annotations/{kind}_{folder}.json" for kind in KINDS]
        for path in paths:
            if path not in files:
                raise UnreadableFile(
                    f"{files.root} has {folder} but no {path}.\n"
                    f"{self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
                )
        captions: dict[str, list[str]] = {}
        for _, row in parse_captions(files.read(paths[0]), paths[0]):
            captions.setdefault(row["file"], []).append(row["text"])
        boxes = parse_boxes(files.read(paths[1]), paths[1])
        refused = {file: line for line, file in boxes.refused.items()}
        name_classes(self, boxes.names)

        def example(name: str) -> dict[str, Any]:
            file = name.rpartition("/")[2]
            if file not in captions:
                raise DamagedRecord(f"{name} has no caption")
            if file in refused:
                raise DamagedRecord(refused[file])
            objects = boxes.by_file.get(file)
            return {
                "image": files.read(name),
                "captions": captions[file],
                "objects": as_objects(*objects) if objects else [],
            }

        return Split(files.names(folder), example)


KINDS = ("captions", "instances")


class COCOStuff(COCO):
    """COCO 2017 with a map of 182 classes of things and stuff for every photograph.

    Pixels without a class are 255.

    Source: Caesar et al. 2018.
    """

    name = "coco2017_stuff"
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"""\
{COCO.MANUAL_DOWNLOAD_INSTRUCTIONS} Next to it stuffthingmaps_trainval2017.zip from
https://github.com/nightrome/cocostuff (unpacked: stuffthingmaps/train2017/*.png and
stuffthingmaps/val2017/*.png)."""

    def fields(self) -> dict[str, Any]:
        """Returns captions, objects and the label map."""
        return {**super().fields(), **_label_map()}

    def _split(self, files: Files, folder: str) -> Split:
        split = super()._split(files, folder)
        home = files.first(
            f"stuffthingmaps/{folder}",
            f"cocostuffthings/{folder}",
            f"stuffthingmaps_trainval2017/{folder}",
        )
        # The zip of the maps unpacks into the folder of the photographs.
        home = home or folder

        def example(name: str) -> dict[str, Any]:
            path = f"{home}/{pathlib.PurePosixPath(name).stem}.png"
            return {**split.example(name), "label_map": _read_map(files, path, name)}

        return Split([n for n in split.names if not n.endswith(".png")], example)


class Landscapes(ManualBuilder):
    """Photographs of landscapes with label maps, as in the paper's semantic models.

    The original set (Esser et al. 2021: 107,625 images from Flickr, maps of
    COCO-Stuff's 182 classes by a DeepLab v2) is not available; any photographs with
    maps fit. A tenth is held out.
    """

    name = "landscapes"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
The folder holds images/ and maps/: for every images/x.jpg a maps/x.png, grey or palette
of 8 bits, whose values are classes. train.txt and validation.txt, if there, name the
images of the splits."""
    LISTS: ClassVar = {"train": "train.txt", "validation": "validation.txt"}

    def fields(self) -> dict[str, Any]:
        """Returns the label map."""
        return _label_map()

    def find(self, files: Files) -> dict[str, Split]:
        """Finds the splits."""

        def key(name: str) -> str:
            return name.removeprefix("images/").rpartition(".")[0]

        def example(name: str) -> dict[str, Any]:
            label_map = _read_map(files, f"maps/{key(name)}.png", name)
            return {"image": files.read(name), "label_map": label_map}

        names = files.names("images")
        divided = divide(
            files, names, key, self.LISTS, lambda n: by_digest(n, key, len(n))
        )
        return {split: Split(images, example) for split, images in divided.items()}


def objects(**more: Any) -> dict[str, Any]:
    """Returns the feature that TFDS' own sets with boxes have, and more of a box."""
    box, label = tfds.features.BBoxFeature(), tfds.features.ClassLabel()
    return {"objects": tfds.features.Sequence({"bbox": box, "label": label, **more})}


def _label_map() -> dict[str, Any]:
    png = tfds.features.Image(shape=(None, None, 1), encoding_format="png")
    return {"label_map": png}


def name_classes(builder: ManualBuilder, names: Sequence[str]) -> None:
    features: Any = builder.info.features
    label = features["objects"]["label"]
    if label.num_classes is None:
        label.names = list(names)


def as_objects(boxes: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    """Converts x, y, width, height to TFDS' bounding boxes, within [0, 1]."""
    low = boxes[:, :2].clip(0, 1)
    high = (boxes[:, :2] + boxes[:, 2:]).clip(low, 1)
    corners = np.concatenate([low[:, ::-1], high[:, ::-1]], axis=1)
    return [
        {"bbox": box, "label": int(label)}
        for box, label in zip(corners, labels, strict=True)
    ]


def _read_map(files: Files, path: str, name: str) -> bytes:
    if path not in files:
        raise DamagedRecord(f"{name} has no label map {path}")
    return files.read(path)
