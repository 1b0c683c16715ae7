# SPDX-License-Identifier: Apache-2.0
"""Annotations stored next to images: captions, boxes, label maps."""

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ldm_jax.data.images.boxes import Boxes, normal, parse_boxes
from ldm_jax.data.records import DamagedRecord, Record, fingerprint, reading_record
from ldm_jax.files import paths
from ldm_jax.files.errors import UnreadableFile, reading, shown
from ldm_jax.files.formats.pictures import MAX_PIXELS, read_label_map
from ldm_jax.files.formats.structured import parse_json, read_csv, read_json_lines
from ldm_jax.files.paths import printable
from ldm_jax.files.reading import MISSING, not_regular, read_bytes, read_lines

# COCO's annotations, the largest file that is read as a whole, have 450 MiB.
MAX_BYTES = 2**30

FILE_COLUMNS = ("file_name", "file", "filename", "image", "path")
TEXT_COLUMNS = ("caption", "text", "captions")


@dataclasses.dataclass(frozen=True)
class Annotations:
    """Places of the annotations of a folder, as paths relative to it.

    Attributes:
      captions: "txt" for a text file next to every image, or the path of a CSV or
        JSONL file; see `read_captions`.
      boxes: path of a JSON file; see `read_boxes`.
      label_maps: path of a folder with, for every image, a PNG of the same relative
        path but for the suffix, whose pixels are classes (grey or palette, 8 bits).
    """

    captions: str | None = None
    boxes: str | None = None
    label_maps: str | None = None


class Captions(NamedTuple):
    """The captions of images.

    Attributes:
      by_file: captions of each image, by its relative path.
      refused: {problem of a caption, with file and place: its image, or ""}.
    """

    by_file: dict[str, tuple[str, ...]]
    refused: dict[str, str]


class Annotated:
    """The annotations of the images of a folder.

    Attributes:
      fingerprint: digest of captions and boxes.
      box_names: names of the boxes' classes.
    """

    def __init__(self, root: pathlib.Path, where: Annotations, files: Sequence[str]):
        self._root, self._where = root, where
        captions, boxes = Captions({}, {}), Boxes({}, (), {})
        if where.captions:
            captions = read_captions(root, where.captions, files)
        if where.boxes:
            boxes = read_boxes(root, where.boxes)
        self._captions, self._boxes = captions.by_file, boxes.by_file
        self._refused = {**captions.refused, **boxes.refused}
        self.box_names = boxes.names
        lists = {f: [b.tolist(), i.tolist()] for f, (b, i) in self._boxes.items()}
        self.fingerprint = fingerprint([self._captions, lists])

    def known(self, files: Sequence[str], refused: list[str]) -> list[str]:
        """Returns the files that have all annotations; records others, and orphans.

        Args:
          files: relative paths of the images.
          refused: gets a line for every image that lacks an annotation, for every
            annotation without an image, and for every one that cannot be read.
        """
        refused += self._refused
        listed = set(self._refused.values())
        annotated = {}
        if self._where.captions:
            annotated["caption"] = set(self._captions)
        if self._where.boxes:
            annotated["boxes"] = set(self._boxes)
        if self._where.label_maps:
            annotated["label map"] = {f for f in files if self._map(f).is_file()}
        there = set(files)
        for name, having in annotated.items():
            refused += [
                f"{file} has no {name}"
                for file in files
                if file not in having and file not in listed
            ]
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
        return [f for f in files if all(f in having for having in annotated.values())]

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
            with reading_record():
                path = regular_file_inside(self._root, self._map(file))
                name = f"label map of {file}"
                bound = max(MAX_PIXELS, shape[0] * shape[1])  # of the image itself
                record["label_map"] = read_label_map(path, bound, name)
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
      where: "txt", a text file next to every image, one caption per line; or the path,
        from `root`, of a CSV with a header, or of a JSONL, with a column for the file
        and one for the caption (FILE_COLUMNS, TEXT_COLUMNS); or of a JSON of COCO's
        captions. A file may come often.
      files: relative paths of the images.

    Returns:
      The captions. Captions of files that are not there are in it too.

    Raises:
      UnreadableFile: no such file, or a line without the columns, with its number.
    """
    captions_of: dict[str, list[str]] = {}
    refused: dict[str, str] = {}
    if where == "txt":
        for file in files:
            path = (root / file).with_suffix(".txt")
            try:
                if not_regular(path) != MISSING:
                    captions_of[file] = read_lines(regular_file_inside(root, path))
            except (UnreadableFile, OSError) as error:
                refused[str(error)] = file
    else:
        path = regular_file_inside(root, root / where)
        for place, row in _rows(path):
            file = _column(row, FILE_COLUMNS, path, place)
            text = _column(row, TEXT_COLUMNS, path, place)
            texts = [text] if isinstance(text, str) else text
            if problem := _problem(file, texts):
                image = normal(file) if isinstance(file, str) else ""
                refused[f"{printable(path)}, {place}: {problem}"] = image
            else:
                captions_of.setdefault(normal(file), []).extend(texts)
    return Captions(
        {f: tuple(texts) for f, texts in captions_of.items() if texts}, refused
    )


def _problem(file: Any, texts: Any) -> str:
    """Describes the problem of the values of a row; "" if there is none."""
    if not isinstance(file, str) or not file.strip():
        return f"the name of the file must be a text: got {shown(file)}"
    is_list = isinstance(texts, list) and all(isinstance(t, str) for t in texts)
    if not is_list:
        return f"the caption must be a text or a list of texts: got {shown(texts)}"
    if not texts or not all(text.strip() for text in texts):
        return f"the caption of {printable(file)} is empty"
    return ""


def read_boxes(root: pathlib.Path, where: str) -> Boxes:
    """Reads the boxes of images.

    Args:
      root: folder of the images.
      where: path, from `root`, of a JSON file; see `parse_boxes`.

    Raises:
      UnreadableFile: no such file, or another format.
    """
    path = regular_file_inside(root, root / where)
    return parse_boxes(read_bytes(path, MAX_BYTES), path)


def regular_file_inside(root: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
    """Returns a path that must be a regular file within `root`, links resolved.

    Raises:
      UnreadableFile: it is not there, or leads out of `root`.
    """
    if reason := not_regular(path):  # first: a link to itself cannot be resolved
        raise UnreadableFile(
            f"{printable(path)} is not a file that can be read: it {reason} (paths "
            f"are relative to {printable(root)})."
        )
    if not path.resolve().is_relative_to(root.resolve()):
        raise UnreadableFile(
            f"{printable(path)} leads out of {printable(root)}: move it into the "
            "folder."
        )
    return path


def _rows(path: pathlib.Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields (place, row) of a file of captions."""
    kind = path.suffix.lower()
    if kind == ".json":
        yield from parse_captions(read_bytes(path, MAX_BYTES), path)
        return
    for number, row in (read_csv if kind == ".csv" else read_json_lines)(path):
        yield f"line {number}", row


def parse_captions(data: bytes, path: paths.PathLike) -> Iterator[tuple[str, dict]]:
    """Yields (place, {"file", "text"}) of the annotations of a COCO captions file.

    Args:
      data: bytes of the file.
      path: its name, for the error.

    Raises:
      UnreadableFile: another format.
    """
    rule = "must be JSON in COCO's format (images, annotations with captions)"
    content = parse_json(data, path, rule=rule)
    with reading(path, rule=rule, data=data):
        names = {entry["id"]: entry["file_name"] for entry in content["images"]}
        rows = [
            {"file": names[entry["image_id"]], "text": entry["caption"]}
            for entry in content["annotations"]
        ]
    for number, row in enumerate(rows):
        yield f"annotation {number}", row


def _column(row: Mapping[str, Any], names: tuple[str, ...], path, place: str) -> Any:
    """Returns the value of the first of some columns that the row has."""
    here = [name for name in names if name in row]
    if not here:
        raise UnreadableFile(
            f"{printable(path)}, {place}: needs one of the columns {', '.join(names)}; "
            f"it has {shown(list(row))}."
        )
    return next((row[name] for name in here if row[name]), row[here[0]])
