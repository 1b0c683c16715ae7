# SPDX-License-Identifier: Apache-2.0
"""What users keep beside their images: captions, boxes, label maps."""

import csv
import dataclasses
import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from ldm_jax.data.images.boxes import Boxes, parse_boxes
from ldm_jax.data.images.decode import decode_label_map
from ldm_jax.data.records import DamagedRecord, Record, fingerprint

Captions = dict[str, tuple[str, ...]]

FILE_COLUMNS = ("file_name", "file", "filename", "image", "path")
TEXT_COLUMNS = ("caption", "text", "captions")


@dataclasses.dataclass(frozen=True)
class Annotations:
    """Where the annotations of a folder lie; paths are relative to the folder.

    Attributes:
      captions: "txt" for a text file beside every image, or the path of a CSV or JSONL;
        see `read_captions`.
      boxes: path of a JSON file; see `read_boxes`.
      label_maps: path of a folder with, for every image, a PNG of the same relative
        path but for the suffix, whose pixels are classes (grey or palette, 8 bits).
    """

    captions: str | None = None
    boxes: str | None = None
    label_maps: str | None = None


class Annotated:
    """The annotations of the images of a folder.

    Attributes:
      fingerprint: digest of captions and boxes.
      box_names: names of the boxes' classes.
    """

    def __init__(self, root: pathlib.Path, where: Annotations, files: Sequence[str]):
        self._root, self._where = root, where
        self._captions: Captions = {}
        self._boxes: Boxes = {}
        self.box_names: tuple[str, ...] = ()
        if where.captions:
            self._captions = read_captions(root, where.captions, files)
        if where.boxes:
            self._boxes, self.box_names = read_boxes(root, where.boxes)
        boxes = {f: [b.tolist(), i.tolist()] for f, (b, i) in self._boxes.items()}
        self.fingerprint = fingerprint([self._captions, boxes])

    def known(self, files: Sequence[str], refused: list[str]) -> list[str]:
        """Returns the files that have all annotations; notes the others, and orphans.

        Args:
          files: relative paths of the images.
          refused: gets a line for every image that lacks an annotation, and for every
            annotation without an image.
        """
        wanted = {}
        if self._where.captions:
            wanted["caption"] = set(self._captions)
        if self._where.boxes:
            wanted["boxes"] = set(self._boxes)
        if self._where.label_maps:
            wanted["label map"] = {f for f in files if self._map(f).is_file()}
        there = set(files)
        for name, having in wanted.items():
            refused += [f"{file} has no {name}" for file in files if file not in having]
            refused += [
                f"{file} has a {name} but is not there"
                for file in sorted(having - there)
            ]
        if self._where.captions == "txt":
            stems = {(self._root / file).with_suffix("") for file in files}
            refused += [
                f"{path.relative_to(self._root)} has no image"
                for path in sorted(self._root.rglob("*.txt"))
                if path.with_suffix("") not in stems
            ]
        return [f for f in files if all(f in having for having in wanted.values())]

    def fields(self, file: str, shape: tuple[int, int]) -> Record:
        """Returns the fields of one image: captions, boxes, box_labels, label_map.

        Raises:
          DamagedRecord: a label map that cannot be read or has another size.
        """
        record: Record = {}
        if self._where.captions:
            record["captions"] = self._captions[file]
        if self._where.boxes:
            record["boxes"], record["box_labels"] = self._boxes[file]
        if self._where.label_maps:
            try:
                data = inside(self._root, self._map(file)).read_bytes()
            except (OSError, ValueError) as error:
                raise DamagedRecord(f"label map of {file}: {error}") from error
            record["label_map"] = decode_label_map(data, f"label map of {file}")
            if record["label_map"].shape != shape:
                raise DamagedRecord(
                    f"label map of {file} is {record['label_map'].shape}, the image is "
                    f"{shape}"
                )
        return record

    def _map(self, file: str) -> pathlib.Path:
        return (self._root / str(self._where.label_maps) / file).with_suffix(".png")


def read_captions(root: pathlib.Path, where: str, files: Iterable[str]) -> Captions:
    """Reads the captions of images.

    Args:
      root: folder of the images.
      where: "txt", a text file beside every image, one caption per line; or the path,
        from `root`, of a CSV with a header, or of a JSONL, with a column for the file
        and one for the caption (FILE_COLUMNS, TEXT_COLUMNS); or of a JSON of COCO's
        captions. A file may come often.
      files: relative paths of the images.

    Returns:
      Captions by file. Captions of files that are not there are in it too.

    Raises:
      ValueError: no such file, or a line that cannot be read, with its number.
    """
    if where == "txt":
        beside = {file: (root / file).with_suffix(".txt") for file in files}
        return {
            file: lines
            for file, path in beside.items()
            if path.is_file() and (lines := _lines(inside(root, path)))
        }
    path = inside(root, root / where)
    found: dict[str, list[str]] = {}
    is_coco = path.suffix.lower() == ".json"
    rows = parse_captions(path.read_bytes(), path) if is_coco else _rows(path)
    for number, row in rows:
        file = _column(row, FILE_COLUMNS, path, number)
        text = _column(row, TEXT_COLUMNS, path, number)
        found.setdefault(str(file), []).extend(
            [text] if isinstance(text, str) else text
        )
    return {file: tuple(texts) for file, texts in found.items()}


def read_boxes(root: pathlib.Path, where: str) -> tuple[Boxes, tuple[str, ...]]:
    """Reads the boxes of images.

    Args:
      root: folder of the images.
      where: path, from `root`, of a JSON file; see `parse_boxes`.

    Returns:
      (boxes by file, names of the classes).

    Raises:
      ValueError: no such file, or another format.
    """
    path = inside(root, root / where)
    return parse_boxes(path.read_bytes(), path)


def inside(root: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
    """Returns a path that must be a file within `root`, links resolved.

    Raises:
      ValueError: it is not there, or leads out of `root`.
    """
    if not path.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"{path} leads out of {root}: move it into the folder.")
    if not path.is_file():
        raise ValueError(f"{path} is not a file (paths are relative to {root}).")
    return path


def _lines(path: pathlib.Path) -> tuple[str, ...]:
    text = path.read_text(encoding="utf-8")
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _rows(path: pathlib.Path):
    """Yields (line number, row as a dict) of a CSV or JSONL file."""
    with open(path, encoding="utf-8", newline="") as file:
        if path.suffix.lower() == ".csv":
            yield from enumerate(csv.DictReader(file), start=2)
            return
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("not an object")
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}.") from error
            yield number, row


def parse_captions(data: bytes, path: str | pathlib.Path):
    """Yields (place, {"file", "text"}) of the annotations of a COCO captions file.

    Args:
      data: bytes of the file.
      path: its name, for the error.
    """
    try:
        facts = json.loads(data)
        names = {entry["id"]: entry["file_name"] for entry in facts["images"]}
        for number, entry in enumerate(facts["annotations"]):
            yield number, {"file": names[entry["image_id"]], "text": entry["caption"]}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} must be JSON in COCO's format (images, annotations with "
            f"captions): {type(error).__name__} {error}."
        ) from error


def _column(
    row: dict[str, Any], names: tuple[str, ...], path: pathlib.Path, number: int
) -> Any:
    for name in names:
        if row.get(name):
            return row[name]
    raise ValueError(
        f"{path}, line {number}: needs one of the columns {', '.join(names)}; it has "
        f"{', '.join(map(str, row))}."
    )
