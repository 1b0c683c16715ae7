# SPDX-License-Identifier: Apache-2.0
"""Open Images: photographs with boxes, all of them or those of the paper's layouts."""

import array
import csv
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from ldm_jax.configs import open_images
from ldm_jax.data.builders.files import Files
from ldm_jax.data.builders.layouts import as_objects, name_classes, objects
from ldm_jax.data.builders.manual import ManualBuilder, Split
from ldm_jax.data.records import DamagedRecord
from ldm_jax.files.errors import UnreadableFile, cut, reading
from ldm_jax.files.formats.structured import parse_csv


class OpenImages(ManualBuilder):
    """Open Images with boxes of 600 classes: 1.7 million photographs to train on.

    Photographs without a box are kept and have none; groups are boxes like others.

    Source: Kuznetsova et al. 2020.
    """

    name = "openimages"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
The folder holds train/ (or train_0/ to train_f/), validation/ and test/ with the
images, <id>.jpg, and next to them class-descriptions-boxable.csv (or oidv7-...),
oidv6-train-annotations-bbox.csv (or train-...), validation-annotations-bbox.csv and
test-annotations-bbox.csv, from https://storage.googleapis.com/openimages/web/. A split
whose folder is missing is left out."""

    def fields(self) -> dict[str, Any]:
        """Returns the objects."""
        return objects()

    def find(self, files: Files) -> dict[str, Split]:
        """Finds the splits."""
        rank = self._classes(files)
        splits = {}
        for split in ("train", "validation", "test"):
            names = [
                name
                for name in files.names()
                if name.split("/")[0].partition("_")[0] == split
            ]
            path = files.find(*(f"{v}{split}-annotations-bbox.csv" for v in VERSIONS))
            if names and not path:
                raise UnreadableFile(
                    f"{files.root} has images of {split} but not their boxes.\n"
                    f"{self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
                )
            if names and rank:
                splits[split] = self._with_boxes(files, names, path, rank)
        return splits

    def _classes(self, files: Files) -> dict[str, int]:
        """Returns key -> number of every class, and stores the names; or {}."""
        classes = files.find(
            "class-descriptions-boxable.csv", "oidv7-class-descriptions-boxable.csv"
        )
        if not classes:
            return {}
        with reading(classes, "as CSV of keys and names"):
            rows = csv.reader(files.lines(classes))
            names = {row[0]: row[1] for row in rows if row[0].startswith("/")}
        name_classes(self, list(names.values()))
        return {key: i for i, key in enumerate(names)}

    def _with_boxes(
        self, files: Files, names: list[str], path: str, rank: dict[str, int]
    ) -> Split:
        table = _BoxTable(files, path, rank)

        def example(name: str) -> dict[str, Any]:
            boxes, labels, _ = table.of(pathlib.PurePosixPath(name).stem)
            return {"image": files.read(name), "objects": as_objects(boxes, labels)}

        return Split(names, example)


class OpenImagesLayout(OpenImages):
    """Open Images as in the paper's layout models: 340 classes, with attributes.

    Photographs with less than 2 or more than 30 boxes of these classes, and boxes of
    less than a ten-thousandth of the image, are left out; see `configs.open_images`.
    """

    name = "openimages_layout"

    def fields(self) -> dict[str, Any]:
        """Returns the objects, with the bits of their attributes."""
        return objects(attributes=tfds.features.Scalar(np.int32))

    def _classes(self, files: Files) -> dict[str, int]:
        del files
        name_classes(self, open_images.NAMES)
        return open_images.class_numbers()

    def _with_boxes(
        self, files: Files, names: list[str], path: str, rank: dict[str, int]
    ) -> Split:
        table = _BoxTable(files, path, rank, for_layouts=True)

        def example(name: str) -> dict[str, Any]:
            boxes, labels, attributes = table.of(pathlib.PurePosixPath(name).stem)
            objects = as_objects(boxes, labels)
            for entry, bits in zip(objects, attributes, strict=True):
                entry["attributes"] = int(bits)
            return {"image": files.read(name), "objects": objects}

        few, many = open_images.MIN_BOXES, open_images.MAX_BOXES
        counts = {name: len(table.of(_stem(name))[1]) for name in names}
        return Split([name for name in names if few <= counts[name] <= many], example)


VERSIONS = ("oidv6-", "", "oidv7-")
# The columns of attributes, lowest bit first.
ATTRIBUTES = ("IsGroupOf", "IsOccluded", "IsDepiction", "IsInside")


def _stem(name: str) -> str:
    return pathlib.PurePosixPath(name).stem


class _BoxTable:
    """The boxes of a CSV of Open Images; it has 14 million, stored in 27 bytes each.

    Args:
      files: of the set.
      path: of the CSV.
      rank: key -> number of a class.
      for_layouts: whether boxes of other classes, and small ones, are left out, and
        attributes are read.
    """

    def __init__(
        self,
        files: Files,
        path: str,
        rank: dict[str, int],
        for_layouts: bool = False,
    ):
        ids, labels, sides = array.array("Q"), array.array("h"), array.array("f")
        attributes = array.array("b")
        with files.open_text(path) as file:
            line = 1
            try:
                for line, row in parse_csv(file, path):  # noqa: B007 (for the error)
                    box = _sides(row)
                    if for_layouts and (
                        row["LabelName"] not in rank
                        or _area(box) <= open_images.MIN_AREA
                    ):
                        continue
                    ids.append(int(row["ImageID"], 16))
                    labels.append(rank[row["LabelName"]])
                    sides.extend(box)
                    attributes.append(_attributes(row) if for_layouts else 0)
            except (KeyError, ValueError, OverflowError) as error:
                raise UnreadableFile(
                    f"{path}, line {line}: {type(error).__name__} {cut(str(error))}. "
                    "Fetch it again."
                ) from error
        ids = np.frombuffer(ids, np.uint64)
        order = np.argsort(ids, kind="stable")
        self._ids = ids[order]
        self._labels = np.frombuffer(labels, np.int16)[order]
        self._attributes = np.frombuffer(attributes, np.int8)[order]
        self._sides = np.frombuffer(sides, np.float32).reshape(-1, 4)[order]

    def of(self, image: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns boxes [N, 4] (x, y, width, height), labels and attributes [N]."""
        try:
            number = np.uint64(int(image, 16))
        except (ValueError, OverflowError) as error:
            raise DamagedRecord(
                f"{image} is not an id of Open Images: {error}"
            ) from error
        low, high = (np.searchsorted(self._ids, number, s) for s in ("left", "right"))
        sides = self._sides[low:high]
        boxes = np.concatenate([sides[:, :2], sides[:, 2:] - sides[:, :2]], axis=1)
        return boxes, self._labels[low:high], self._attributes[low:high]


def _area(sides: Sequence[float]) -> float:
    left, top, right, bottom = sides
    return (right - left) * (bottom - top)


def _attributes(row: Mapping[str, str]) -> int:
    """Returns the attributes of a box as bits; -1, "unknown", is none."""
    return sum((int(row[name]) == 1) << i for i, name in enumerate(ATTRIBUTES))


def _sides(row: Mapping[str, str]) -> list[float]:
    """Returns XMin, YMin, XMax, YMax of a box, as fractions of the image."""
    sides = [float(row[name]) for name in ("XMin", "YMin", "XMax", "YMax")]
    left, top, right, bottom = sides
    # They are rounded: a box of one pixel may have no width, and reach out by 1e-3.
    if not (-1e-3 <= left <= right <= 1 + 1e-3 and -1e-3 <= top <= bottom <= 1 + 1e-3):
        raise ValueError(f"the box {sides} is not within [0, 1]")
    return sides
