# SPDX-License-Identifier: Apache-2.0
"""Surveys a folder of pictures: their number, sizes, classes and captions."""

import collections
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from ldm_jax.data.images.annotations import Annotations
from ldm_jax.data.images.folder import FolderSource, is_test_file
from ldm_jax.files.paths import expand

# Files of captions that are recognized by their names.
CAPTION_FILES = ("captions.csv", "captions.jsonl", "captions.json", "metadata.csv")
CAPTION_FILES += ("metadata.jsonl",)
# Files that are named where more are left out.
SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Survey:
    """What a folder of pictures contains.

    Attributes:
      folder: its absolute path.
      sizes: [N, 2] heights and widths.
      formats: ending of the file names -> number of pictures.
      classes: name of a class folder -> number of pictures; {} without class folders.
      captions: of `Annotations`; None without captions.
      num_held_out: pictures of the split "test".
      left_out: a line for every file that is left out.
      fingerprint: of the set of pictures.
    """

    folder: str
    sizes: np.ndarray
    formats: Mapping[str, int]
    classes: Mapping[str, int]
    captions: str | None
    num_held_out: int
    left_out: Sequence[str]
    fingerprint: str

    @property
    def count(self) -> int:
        """The number of pictures that can be read."""
        return len(self.sizes)

    @property
    def short_sides(self) -> np.ndarray:
        """The shorter side of every picture, [N]."""
        return self.sizes.min(axis=1)

    def describe(self) -> dict[str, str]:
        """Describes the folder: name of a line -> text."""
        sides, formats = self.short_sides, sorted(self.formats.items())
        low, middle, high = np.percentile(sides, [0, 50, 100]).astype(int)
        lines = {
            "folder": self.folder,
            "pictures": f"{self.count:,} ({', '.join(f'{n} {s}' for s, n in formats)})",
            "short side": f"{low} pixels"
            if low == high
            else f"{low} to {high} pixels, {middle} in the middle",
            "classes": _named(self.classes) if self.classes else "none",
            "captions": self.captions or "none",
            "left out": "nothing",
        }
        if self.left_out:
            shown = self.left_out[:SHOWN]
            more = ["..."] if len(self.left_out) > SHOWN else []
            lines["left out"] = "\n".join([f"{len(self.left_out)}:", *shown, *more])
        return lines


def survey(folder: str) -> Survey:
    """Surveys the pictures of a folder by their headers.

    Raises:
      ValueError: there is no such folder, or no picture in it, or only some of the
        pictures are in class folders.
    """
    root = pathlib.Path(expand(folder)).absolute()
    captions = _find_captions(root)
    # Whatever is unreadable is listed; how much of it is too much is decided later.
    source = FolderSource(
        root, "all", max_refused=2**31, annotations=captions, warns=False
    )
    files = source.files
    ends = collections.Counter(pathlib.PurePath(f).suffix.lower() for f in files)
    folders = collections.Counter(f.split("/", 1)[0] for f in files if "/" in f)
    return Survey(
        str(root),
        source.sizes(),
        dict(ends),
        {name: folders[name] for name in source.class_names},
        captions.captions,
        sum(map(is_test_file, files)),
        tuple(source.refused),
        source.fingerprint,
    )


def _find_captions(root: pathlib.Path) -> Annotations:
    """Finds captions: a file of a known name, or text files next to the pictures."""
    for name in CAPTION_FILES:
        if (root / name).is_file():
            return Annotations(captions=name)
    texts = list(root.rglob("*.txt"))
    with_picture = [path for path in texts if _has_picture(path)]
    # One note among the pictures is not a set of captions.
    if len(with_picture) > max(1, len(texts) // 2):
        return Annotations(captions="txt")
    return Annotations()


def _has_picture(text: pathlib.Path) -> bool:
    """Returns whether a picture has the name of a text file."""
    ends = (".jpg", ".jpeg", ".png", ".webp", ".JPG", ".JPEG", ".PNG")
    return any(text.with_suffix(end).exists() for end in ends)


def _named(classes: Mapping[str, int]) -> str:
    """Formats classes with their counts, the first ten."""
    shown = [f"{name} {count}" for name, count in list(classes.items())[:10]]
    more = ", ..." if len(classes) > 10 else ""
    return f"{len(classes):,}: {', '.join(shown)}{more}"
