# SPDX-License-Identifier: Apache-2.0
"""Boxes of images in JSON: COCO's format, and a plain one."""

import posixpath
from typing import Any, NamedTuple

import numpy as np

from ldm_jax.files.errors import reading, shown
from ldm_jax.files.formats.structured import parse_json
from ldm_jax.files.paths import PathLike, printable

# COCO rounds to hundredths of a pixel, others to whole ones.
TOLERANCE_PIXELS, TOLERANCE = 1.0, 1e-3


class Boxes(NamedTuple):
    """The boxes of images.

    Attributes:
      by_file: {relative path: (boxes float32 [N, 4] as fractions of the image, labels
        int32 [N])}.
      names: of the classes. Labels are ranks of COCO's category ids; in the plain
        format ranks of the names, or the numbers themselves.
      refused: {problem of a box, with file and number: relative path of its
        image}; such images are not in `by_file`.
    """

    by_file: dict[str, tuple[np.ndarray, np.ndarray]]
    names: tuple[str, ...]
    refused: dict[str, str]


def parse_boxes(data: bytes, path: PathLike) -> Boxes:
    """Reads the boxes of a JSON file.

    Args:
      data: bytes of the file: in COCO's format ("images", "annotations" with "bbox"
        [x, y, width, height] in pixels, "categories"); or as layouts are given when
        sampling, for every image a list of its boxes, as fractions of the image:
        {"1.jpg": [{"label": "dog", "box": [x, y, width, height]}], "2.jpg": []}.
      path: its name, for the error.

    Raises:
      UnreadableFile: neither format; or, in the plain one, a box without area or
        outside of its image. In COCO's, which programs write, that image is refused.
    """
    rule = (
        "must be JSON in COCO's format (images, annotations, categories), or "
        '{"1.jpg": [{"label": "dog", "box": [x, y, width, height]}]}'
    )
    with reading(path, rule=rule, data=data):
        content = parse_json(data, path, object, rule=rule)
        boxes, names, refused = (
            _coco(content, path) if "annotations" in content else _plain(content)
        )
        bad = set(refused.values())
        by_file = {
            file: (
                np.array([box for box, _ in entries], np.float32).reshape(-1, 4),
                np.array([label for _, label in entries], np.int32),
            )
            for file, entries in boxes.items()
            if file not in bad
        }
        return Boxes(by_file, names, refused)


Box = tuple[float, float, float, float]
# By file, a box and a label each.
_Found = dict[str, list[tuple[Box, int]]]


def normal(file: str) -> str:
    """Normalises a relative path of an annotation: "./a//b.png" is "a/b.png"."""
    return posixpath.normpath(file.strip())


def _coco(
    content: dict[str, Any], path: PathLike
) -> tuple[_Found, tuple[str, ...], dict[str, str]]:
    categories = sorted(content["categories"], key=lambda entry: entry["id"])
    rank = {entry["id"]: i for i, entry in enumerate(categories)}
    images = {entry["id"]: entry for entry in content["images"]}
    boxes_of: _Found = {normal(e["file_name"]): [] for e in images.values()}
    refused: dict[str, str] = {}
    for number, entry in enumerate(content["annotations"]):
        image = images[entry["image_id"]]
        file, label = normal(image["file_name"]), rank[entry["category_id"]]
        width, height = image["width"], image["height"]
        box = _fractions(entry["bbox"], width, height, TOLERANCE_PIXELS)
        if box is not None:
            boxes_of[file].append((box, label))
            continue
        line = (
            f"{printable(path)}, annotation {number}: the box of {printable(file)} "
            f"must be [x, y, width, height] within {shown(width)}x{shown(height)} "
            f"pixels: got {shown(entry['bbox'])}"
        )
        refused[line] = file
    return boxes_of, tuple(str(entry["name"]) for entry in categories), refused


def _plain(
    content: dict[str, Any],
) -> tuple[_Found, tuple[str, ...], dict[str, str]]:
    if not content:
        raise ValueError("it is empty")
    labels = {entry["label"] for entries in content.values() for entry in entries}
    if all(isinstance(label, int) for label in labels):
        if min(labels, default=0) < 0 or max(labels, default=0) > MAX_LABEL:
            raise ValueError(f"a label is {shown(min(labels))}")
        names = tuple(map(str, range(max(labels, default=-1) + 1)))
        rank = {label: label for label in labels}
    else:
        names = tuple(sorted(labels))
        rank = {name: i for i, name in enumerate(names)}
    boxes_of: _Found = {}
    for file, entries in content.items():
        boxes = boxes_of[normal(file)] = []
        for entry in entries:
            box = _fractions(entry["box"], 1, 1, TOLERANCE)
            if box is None:
                raise ValueError(
                    f"box {shown(entry['box'])} of {printable(file)} is not within "
                    "[0, 1]"
                )
            boxes.append((box, rank[entry["label"]]))
    return boxes_of, names, {}


# Of classes given by number: the largest sets with boxes have 21,000.
MAX_LABEL = 2**20


def _fractions(box: Any, width: Any, height: Any, tolerance: float) -> Box | None:
    """Returns a box as fractions of its image; None if it has no area within.

    Args:
      box: x, y, width, height.
      width, height: of the image, in the same unit.
      tolerance: how far it may reach out of the image; it is cut to it.
    """
    if not isinstance(box, list) or len(box) != 4:
        return None
    for number in (*box, width, height):
        if type(number) not in (int, float) or not abs(number) < 1e9:  # also NaN
            return None
    if not (width > 0 and height > 0 and box[2] > 0 and box[3] > 0):
        return None
    x, y, w, h = box
    if min(x, y) >= 0 and x + w <= width and y + h <= height:
        return x / width, y / height, w / width, h / height
    left, right = max(x, 0), min(x + w, width)
    top, bottom = max(y, 0), min(y + h, height)
    reach = max(left - x, x + w - right, top - y, y + h - bottom)
    if reach > tolerance or left >= right or top >= bottom:
        return None
    return left / width, top / height, (right - left) / width, (bottom - top) / height
