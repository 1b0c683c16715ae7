# SPDX-License-Identifier: Apache-2.0
"""Boxes of images in JSON: COCO's format, and a plain one."""

import json
import pathlib
from typing import Any

import numpy as np

# By file: (boxes float32 [N, 4] as fractions of the image, labels int32 [N]).
Boxes = dict[str, tuple[np.ndarray, np.ndarray]]


def parse_boxes(data: bytes, path: str | pathlib.Path) -> tuple[Boxes, tuple[str, ...]]:
    """Reads the boxes of a JSON file.

    Args:
      data: bytes of the file: in COCO's format ("images", "annotations" with "bbox"
        [x, y, width, height] in pixels, "categories"); or as layouts are told when
        sampling, for every image a list of its boxes, as fractions of the image:
        {"1.jpg": [{"label": "dog", "box": [x, y, width, height]}], "2.jpg": []}.
      path: its name, for the error.

    Returns:
      (boxes by file, names of the classes). Labels are ranks of COCO's category ids;
      in the plain format ranks of the names, or the numbers themselves.

    Raises:
      ValueError: neither format, or a box without area or outside of its image.
    """
    try:
        facts = json.loads(data)
        found, names = _coco(facts) if "annotations" in facts else _plain(facts)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path} must be JSON in COCO's format (images, annotations, categories), "
            f'or {{"1.jpg": [{{"label": "dog", "box": [x, y, width, height]}}]}}: '
            f"{type(error).__name__} {error}."
        ) from error
    boxes = {
        file: (
            np.array([box for box, _ in entries], np.float32).reshape(-1, 4),
            np.array([label for _, label in entries], np.int32),
        )
        for file, entries in found.items()
    }
    return boxes, names


def _coco(facts: dict[str, Any]) -> tuple[dict[str, list], tuple[str, ...]]:
    categories = sorted(facts["categories"], key=lambda entry: entry["id"])
    rank = {entry["id"]: i for i, entry in enumerate(categories)}
    images = {entry["id"]: entry for entry in facts["images"]}
    found: dict[str, list] = {e["file_name"]: [] for e in images.values()}
    for entry in facts["annotations"]:
        image = images[entry["image_id"]]
        size = np.float64([image["width"], image["height"]] * 2)
        found[image["file_name"]].append(
            (np.float64(entry["bbox"]) / size, rank[entry["category_id"]])
        )
    return found, tuple(entry["name"] for entry in categories)


def _plain(facts: dict[str, Any]) -> tuple[dict[str, list], tuple[str, ...]]:
    if not facts:
        raise ValueError("it is empty")
    labels = {entry["label"] for entries in facts.values() for entry in entries}
    if all(isinstance(label, int) for label in labels):
        if min(labels, default=0) < 0:
            raise ValueError(f"a label is {min(labels)}")
        names = tuple(map(str, range(max(labels, default=-1) + 1)))
        rank = {label: label for label in labels}
    else:
        names = tuple(sorted(labels))
        rank = {name: i for i, name in enumerate(names)}
    found: dict[str, list] = {}
    for file, entries in facts.items():
        for entry in entries:
            x, y, width, height = map(float, entry["box"])
            inside = min(x, y) >= 0 and max(x + width, y + height) <= 1 + 1e-3
            if not (inside and min(width, height) > 0):
                raise ValueError(f"box {entry['box']} of {file} is not within [0, 1]")
        found[file] = [(np.float64(e["box"]), rank[e["label"]]) for e in entries]
    return found, names
