# SPDX-License-Identifier: Apache-2.0
"""A folder of image files as a source; its sub-folders are the classes."""

import hashlib
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import logging

from ldm_jax.data.images.annotations import Annotated, Annotations
from ldm_jax.data.images.decode import (
    MAX_PIXELS,
    decode_image,
    open_image,
    upright_size,
)
from ldm_jax.data.records import DamagedRecord, Record, fingerprint

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")

# Splits of a folder that is not divided by its owner: held out is 1 file in 10.
HELD_OUT_TENTHS = 1


class FolderSource:
    """Images of a folder, read when asked for, each checked by its header beforehand.

    `root/<class>/**.png` has one class per sub-folder, numbered in sorted order;
    `root/**.png` with no sub-folder has no label. If `root` has a sub-folder named like
    the split, that is the set. Otherwise the split is "all", or "train" or "test": a
    file is held out for "test" if the digest of its path says so, about one in ten.

    Links are followed only if they stay within `root`; hidden files are passed over.
    With `annotations`, files that lack one are refused like unreadable ones, and so are
    annotations whose image is not there.

    Attributes:
      fingerprint: digest of the relative paths, sizes and class names.
      num_classes: None without sub-folders.
      class_names: () without sub-folders.
      box_names: of the classes of boxes; () without boxes.
      refused: one line for each file that was refused.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        split: str = "all",
        max_pixels: int = MAX_PIXELS,
        max_refused: int = 100,
        annotations: Annotations | None = None,
    ):
        root, annotations = pathlib.Path(root), annotations or Annotations()
        if not root.is_dir():
            raise ValueError(f"the image folder {root} is not a directory.")
        if "/" not in split and split != ".." and (root / split).is_dir():
            if not (root / split).resolve().is_relative_to(root.resolve()):
                raise ValueError(f"{root / split} leads out of {root}: give its path.")
            root, split = root / split, "all"
        elif split not in ("all", "train", "test"):
            raise ValueError(
                f'unknown split "{split}" of the folder {root}; one of: all, train, '
                f"test, or a sub-folder's name."
            )
        self._root, self._max_pixels = root, max_pixels
        files, self.refused = _list_images(root, annotations.label_maps), []
        if not files:
            raise ValueError(
                f"{root} holds no image file ({', '.join(SUFFIXES)}). Give the folder "
                f"that holds the images, or the sub-folders of its classes."
            )
        self._annotated = Annotated(root, annotations, files)
        self.box_names = self._annotated.box_names
        files = self._annotated.known(files, self.refused)
        self.class_names = _class_names(files)
        self.num_classes = len(self.class_names) or None
        self._files = self._readable(files, split, max_refused)
        self._label_of = {name: i for i, name in enumerate(self.class_names)}
        sizes = [os.path.getsize(root / file) for file in self._files]
        self.fingerprint = fingerprint(
            [self._files, sizes, self.class_names, self._annotated.fingerprint]
        )

    def _readable(self, files: list[str], split: str, max_refused: int) -> list[str]:
        """Drops the files of other splits and, up to a bound, the unreadable ones."""
        kept = []
        for file in files:
            if split != "all" and _is_held_out(file) != (split == "test"):
                continue
            try:
                with open(self._root / file, "rb") as opened:
                    open_image(opened, file, self._max_pixels)
                kept.append(file)
            except (DamagedRecord, OSError) as error:
                self.refused.append(str(error))
        if self.refused:
            shown = "\n  ".join(self.refused[:10])
            message = f"{len(self.refused)} of {len(files)} files refused:\n  {shown}"
            if len(self.refused) > max_refused:
                raise ValueError(
                    f"{message}\nMore than max_refused = {max_refused}: mend or remove "
                    f"them, or raise the bound."
                )
            logging.warning("%s", message)
        if not kept:
            raise ValueError(
                f'split "{split}" of {self._root} is empty ({len(files)} files in all, '
                f"{len(self.refused)} refused). Use split=all, or make sub-folders "
                f"train and test."
            )
        return kept

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Record:
        file = self._files[index]
        try:
            data = (self._root / file).read_bytes()
        except OSError as error:
            raise DamagedRecord(f"{file} cannot be read: {error}") from error
        record: Record = {"image": decode_image(data, file, self._max_pixels)}
        if self.class_names:
            label = self._label_of[file.split("/", 1)[0]]
            record["label"] = np.asarray(label, np.int32)
        record.update(self._annotated.fields(file, record["image"].shape[:2]))
        return record

    def __getitems__(self, indices: Sequence[int]) -> list[Record]:
        return [self[int(i)] for i in indices]

    def sizes(self) -> np.ndarray:
        """Returns heights and widths [N, 2], from the headers."""
        found = [upright_size(self._root / file, file) for file in self._files]
        return np.array(found).reshape(-1, 2)


def _list_images(root: pathlib.Path, other_than: str | None) -> list[str]:
    """Lists image files below `root`, sorted, as relative paths with "/".

    The folder `other_than`, which holds label maps, is left out.

    A link that leads out of `root` is passed over with a warning: a set given by
    somebody else must not pull in files it does not hold.
    """
    home, found = root.resolve(), []
    for folder, subfolders, files in os.walk(root):  # does not follow linked folders
        subfolders[:] = sorted(
            name
            for name in subfolders
            if not name.startswith(".")
            and (other_than is None or pathlib.Path(folder, name) != root / other_than)
        )
        for name in files:
            path = pathlib.Path(folder, name)
            if name.startswith(".") or path.suffix.lower() not in SUFFIXES:
                continue
            if path.is_symlink() and not path.resolve().is_relative_to(home):
                logging.warning("%s leads out of %s: passed over.", path, root)
                continue
            found.append(path.relative_to(root).as_posix())
    return sorted(found)


def _class_names(files: list[str]) -> tuple[str, ...]:
    """Returns the first-level sub-folders; () if no file lies in one."""
    inside = [file for file in files if "/" in file]
    if not inside:
        return ()
    if len(inside) < len(files):
        loose = next(file for file in files if "/" not in file)
        raise ValueError(
            f"either all images lie in class folders or none: {loose} lies beside "
            f"{inside[0].split('/')[0]}/. Move it into a class folder."
        )
    return tuple(sorted({file.split("/", 1)[0] for file in inside}))


def _is_held_out(file: str) -> bool:
    """Tells the split by the path alone, so that adding files moves none."""
    return hashlib.sha256(file.encode()).digest()[0] % 10 < HELD_OUT_TENTHS
