# SPDX-License-Identifier: Apache-2.0
"""COCO, Open Images and landscapes: photographs with captions, boxes, label maps."""

import array
import csv
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from ldm_jax.data.builders.files import Files
from ldm_jax.data.builders.manual import ManualBuilder, Split, by_digest, divide
from ldm_jax.data.images.annotations import parse_captions
from ldm_jax.data.images.boxes import parse_boxes
from ldm_jax.data.records import DamagedRecord
from ldm_jax.files.errors import UnreadableFile, cut, reading
from ldm_jax.files.structured import parse_csv


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
        return {"captions": tfds.features.Sequence(tfds.features.Text()), **_objects()}

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
                raise ValueError(
                    f"{files.root} has {folder} but no {path}.\n"
                    f"{self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
                )
        captions: dict[str, list[str]] = {}
        for _, row in parse_captions(files.read(paths[0]), paths[0]):
            captions.setdefault(row["file"], []).append(row["text"])
        boxes = parse_boxes(files.read(paths[1]), paths[1])
        refused = {file: line for line, file in boxes.refused.items()}
        _name_classes(self, boxes.names)

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
                "objects": _as_objects(*objects) if objects else [],
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
{COCO.MANUAL_DOWNLOAD_INSTRUCTIONS} Beside it stuffthingmaps_trainval2017.zip from
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
        # The zip of the maps unpacks beside the photographs: same folder, other ending.
        home = home or folder

        def example(name: str) -> dict[str, Any]:
            path = f"{home}/{pathlib.PurePosixPath(name).stem}.png"
            return {**split.example(name), "label_map": _read_map(files, path, name)}

        return Split([n for n in split.names if not n.endswith(".png")], example)


class Landscapes(ManualBuilder):
    """Photographs of landscapes with label maps, as for the paper's semantic models.

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


class OpenImages(ManualBuilder):
    """Open Images with boxes of 600 classes: 1.7 million photographs to train on.

    Photographs without a box are kept and have none; groups are boxes like others.

    Source: Kuznetsova et al. 2020.
    """

    name = "openimages"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
The folder holds train/ (or train_0/ to train_f/), validation/ and test/ with the
images, <id>.jpg, and beside them class-descriptions-boxable.csv (or oidv7-...),
oidv6-train-annotations-bbox.csv (or train-...), validation-annotations-bbox.csv and
test-annotations-bbox.csv, from https://storage.googleapis.com/openimages/web/. A split
that is not there is not made."""

    def fields(self) -> dict[str, Any]:
        """Returns the objects."""
        return _objects()

    def find(self, files: Files) -> dict[str, Split]:
        """Finds the splits."""
        classes = files.find(
            "class-descriptions-boxable.csv", "oidv7-class-descriptions-boxable.csv"
        )
        if not classes:
            return {}
        with reading(classes, "as CSV of keys and names"):
            rows = csv.reader(files.lines(classes))
            names = {row[0]: row[1] for row in rows if row[0].startswith("/")}
        rank = {key: i for i, key in enumerate(names)}
        _name_classes(self, list(names.values()))
        splits = {}
        for split in ("train", "validation", "test"):
            names = [
                name
                for name in files.names()
                if name.split("/")[0].partition("_")[0] == split
            ]
            path = files.find(*(f"{v}{split}-annotations-bbox.csv" for v in VERSIONS))
            if names and not path:
                raise ValueError(
                    f"{files.root} has images of {split} but not their boxes.\n"
                    f"{self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
                )
            if names:
                splits[split] = _with_boxes(files, names, _BoxTable(files, path, rank))
        return splits


VERSIONS = ("oidv6-", "", "oidv7-")


def _with_boxes(files: Files, names: list[str], table: "_BoxTable") -> Split:
    def example(name: str) -> dict[str, Any]:
        boxes, labels = table.of(pathlib.PurePosixPath(name).stem)
        return {"image": files.read(name), "objects": _as_objects(boxes, labels)}

    return Split(names, example)


class _BoxTable:
    """The boxes of a CSV of Open Images, 26 bytes each: there are 14 million."""

    def __init__(self, files: Files, path: str, rank: dict[str, int]):
        ids, labels, sides = array.array("Q"), array.array("h"), array.array("f")
        with files.open_text(path) as file:
            line = 1
            try:
                for line, row in parse_csv(file, path):  # noqa: B007 (for the error)
                    ids.append(int(row["ImageID"], 16))
                    labels.append(rank[row["LabelName"]])
                    sides.extend(_sides(row))
            except (KeyError, ValueError, OverflowError) as error:
                raise UnreadableFile(
                    f"{path}, line {line}: {type(error).__name__} {cut(str(error))}. "
                    "Fetch it again."
                ) from error
        ids = np.frombuffer(ids, np.uint64)
        order = np.argsort(ids, kind="stable")
        self._ids = ids[order]
        self._labels = np.frombuffer(labels, np.int16)[order]
        self._sides = np.frombuffer(sides, np.float32).reshape(-1, 4)[order]

    def of(self, image: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the boxes [N, 4] (x, y, width, height) and labels of an image."""
        try:
            number = np.uint64(int(image, 16))
        except (ValueError, OverflowError) as error:
            raise DamagedRecord(f"{image} is no id of Open Images: {error}") from error
        low, high = (np.searchsorted(self._ids, number, s) for s in ("left", "right"))
        sides = self._sides[low:high]
        boxes = np.concatenate([sides[:, :2], sides[:, 2:] - sides[:, :2]], axis=1)
        return boxes, self._labels[low:high]


def _sides(row: Mapping[str, str]) -> list[float]:
    """Returns XMin, YMin, XMax, YMax of a box, as fractions of the image."""
    sides = [float(row[name]) for name in ("XMin", "YMin", "XMax", "YMax")]
    left, top, right, bottom = sides
    # They are rounded: a box of one pixel may have no width, and reach out by 1e-3.
    if not (-1e-3 <= left <= right <= 1 + 1e-3 and -1e-3 <= top <= bottom <= 1 + 1e-3):
        raise ValueError(f"the box {sides} is not within [0, 1]")
    return sides


def _objects() -> dict[str, Any]:
    """Returns the feature that TFDS' own sets with boxes have."""
    box, label = tfds.features.BBoxFeature(), tfds.features.ClassLabel()
    return {"objects": tfds.features.Sequence({"bbox": box, "label": label})}


def _label_map() -> dict[str, Any]:
    png = tfds.features.Image(shape=(None, None, 1), encoding_format="png")
    return {"label_map": png}


def _name_classes(builder: ManualBuilder, names: Sequence[str]) -> None:
    features: Any = builder.info.features
    label = features["objects"]["label"]
    if label.num_classes is None:
        label.names = list(names)


def _as_objects(boxes: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    """Turns x, y, width, height into what TFDS stores, within [0, 1]."""
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
