# SPDX-License-Identifier: Apache-2.0
"""Reads a folder of image files, whose sub-folders are the classes."""

import hashlib
import os
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
from absl import logging

from ldm_jax.data.images.annotations import Annotated, Annotations
from ldm_jax.data.records import Record, fingerprint, reading_record
from ldm_jax.files.errors import UnreadableFile, lined
from ldm_jax.files.folders import list_folder
from ldm_jax.files.formats.pictures import (
    MAX_PIXELS,
    SUFFIXES,
    is_picture,
    opened_image,
    read_image,
    upright_size,
)
from ldm_jax.files.paths import printable

# Notes and annotations among images; other files are listed as left out.
NOTES = (".txt", ".json", ".jsonl", ".csv", ".tsv", ".md", ".yaml", ".xml", ".html")

# Splits of a folder that is not divided by its owner: held out is 1 file in 10.
HELD_OUT_TENTHS = 1

# (folder, line) of each refused file that this process has listed. A command that opens
# a folder several times lists its files once.
_LISTED: set[tuple[str, str]] = set()


class FolderSource:
    """Reads images of a folder on demand, each checked by its header beforehand.

    `root/<class>/**.png` has one class per sub-folder, numbered in sorted order;
    `root/**.png` with no sub-folder has no label. If `root` has a sub-folder named like
    the split, that is the set. Otherwise the split is "all", or "train" or "test": a
    file is held out for "test" if the digest of its path says so, about one in ten.

    Links are followed to files within `root` only; hidden files are passed over. Other
    links, files that are not regular, and formats that are not read are refused.
    With `annotations`, files that lack one are refused like unreadable ones, and so are
    annotations whose image is not there. A warning lists them once per process, unless
    `warns` is False, because the caller lists them.

    Attributes:
      fingerprint: digest of the relative paths, sizes and class names.
      num_classes: None without sub-folders.
      class_names: () without sub-folders.
      box_names: of the classes of boxes; () without boxes.
      refused: one line for each file that was refused.
      short_sides: the shorter side of every image, from the headers.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        split: str = "all",
        max_pixels: int = MAX_PIXELS,
        max_refused: int = 100,
        annotations: Annotations | None = None,
        warns: bool = True,
    ):
        root, annotations = pathlib.Path(root), annotations or Annotations()
        if not root.is_dir():
            raise UnreadableFile(
                f"images must be in a folder: {root} is not a directory (from "
                f"{pathlib.Path.cwd()}); check the path."
            )
        if "/" not in split and split != ".." and (root / split).is_dir():
            if not (root / split).resolve().is_relative_to(root.resolve()):
                raise UnreadableFile(
                    f"{root / split} leads out of {root}: give its path."
                )
            root, split = root / split, "all"
        elif split not in ("all", "train", "test"):
            raise UnreadableFile(
                f'unknown split "{split}" of the folder {root}; one of: all, train, '
                f"test, or a sub-folder's name."
            )
        self._root, self._max_pixels = root, max_pixels
        files, left_out = _list_images(root, annotations.label_maps)
        self._num_files = len(files) + len(left_out)
        self.refused = [f"{printable(f)} {why}" for f, why in left_out.items()]
        if not files:
            raise UnreadableFile(
                f"{root} holds no image file ({', '.join(SUFFIXES)}). Give the folder "
                f"that holds the images, or the sub-folders of its classes."
                f"{lined(self.refused[:10])}"
            )
        self._annotated = Annotated(root, annotations, files)
        self.box_names = self._annotated.box_names
        known = self._annotated.known(files, self.refused)
        self.class_names = _class_names(files, left_out)
        self.num_classes = len(self.class_names) or None
        self.short_sides: list[int] = []
        self._files = self._readable(known, split, max_refused)
        if self._list_once() and warns:
            logging.warning("%s", self._list_refused())
        self._label_of = {name: i for i, name in enumerate(self.class_names)}
        sizes = [os.path.getsize(root / file) for file in self._files]
        self.fingerprint = fingerprint(
            [self._files, sizes, self.class_names, self._annotated.fingerprint]
        )

    def _readable(self, files: list[str], split: str, max_refused: int) -> list[str]:
        """Drops the files of other splits and, up to a bound, the unreadable ones."""
        kept = []
        for file in files:
            if split != "all" and is_test_file(file) != (split == "test"):
                continue
            try:
                with opened_image(self._root / file, file, self._max_pixels) as image:
                    kept.append(file)
                    self.short_sides.append(min(image.size))
            except (UnreadableFile, OSError) as error:
                self.refused.append(str(error))
        if len(self.refused) > max_refused:
            raise UnreadableFile(
                f"{self._list_refused()}\nMore than max_refused = {max_refused}: mend "
                "or remove them, or raise the bound."
            )
        if not kept:
            raise UnreadableFile(
                f'split "{split}" of {self._root} is empty ({len(files)} files in all, '
                f"{len(self.refused)} refused). Use split=all, or make sub-folders "
                f"train and test."
            )
        return kept

    def _list_once(self) -> bool:
        """Records the refused files as listed; returns whether any of them is new."""
        root = os.path.realpath(self._root)
        lines = {(root, line) for line in self.refused}
        is_new = not lines <= _LISTED
        _LISTED.update(lines)
        return is_new

    def _list_refused(self) -> str:
        listed = lined(self.refused[:10])
        return f"{len(self.refused)} of {self._num_files} files refused:{listed}"

    @property
    def files(self) -> tuple[str, ...]:
        """The relative paths of the split's images, in the order of the records."""
        return tuple(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Record:
        file = self._files[index]
        with reading_record():
            image = read_image(self._root / file, self._max_pixels, name=file)
        record: Record = {"image": image}
        if self.class_names:
            label = self._label_of[file.split("/", 1)[0]]
            record["label"] = np.asarray(label, np.int32)
        record.update(self._annotated.fields(file, record["image"].shape[:2]))
        return record

    def __getitems__(self, indices: Sequence[int]) -> list[Record]:
        return [self[int(i)] for i in indices]

    def sizes(self) -> np.ndarray:
        """Returns heights and widths [N, 2], from the headers."""
        sizes = [
            upright_size(self._root / file, file, self._max_pixels)
            for file in self._files
        ]
        return np.array(sizes).reshape(-1, 2)


def _list_images(
    root: pathlib.Path, other_than: str | None
) -> tuple[list[str], dict[str, str]]:
    """Lists image files below `root` as sorted relative paths.

    The folder `other_than`, which holds label maps, is left out.

    Returns:
      (images, {file that could be one: why it is left out}).
    """
    skipped = None if other_than is None else root / other_than
    listing = list_folder(root, lambda folder: folder != skipped)
    unknown = {
        file: "is of an unknown format"
        for file in listing.files
        if not is_picture(file) and not file.lower().endswith(NOTES)
    }
    left_out = dict(sorted({**listing.left_out, **unknown}.items()))
    return [file for file in listing.files if is_picture(file)], left_out


def _class_names(files: list[str], left_out: Iterable[str]) -> tuple[str, ...]:
    """Returns the first-level sub-folders; () if no file is in one."""
    inside = [file for file in files if "/" in file]
    if not inside:
        return ()
    if len(inside) < len(files):
        loose = next(file for file in files if "/" not in file)
        folder = printable(inside[0].split("/")[0])
        raise UnreadableFile(
            f"either all images are in class folders or none: {printable(loose)} is "
            f"next to {folder}/. Move it into a class folder. If {folder}/ holds label "
            f"maps, set config.images.label_maps={folder}."
        )
    names = {file.split("/", 1)[0] for file in inside}
    for file in left_out:
        folder = file.split("/", 1)[0]
        if "/" in file and folder not in names:
            raise UnreadableFile(
                f"every class folder must hold an image that can be read: "
                f"{printable(folder)}/ has none, only files like {printable(file)}; "
                "without it the later classes would be renumbered. Convert its files "
                "to PNG or JPEG, or remove the folder."
            )
    return tuple(sorted(names))


def is_test_file(file: str) -> bool:
    """Returns whether a file is in the test split, which depends on its path alone."""
    return hashlib.sha256(file.encode()).digest()[0] % 10 < HELD_OUT_TENTHS
