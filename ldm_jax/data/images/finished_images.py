# SPDX-License-Identifier: Apache-2.0
"""Reads finished images to be evaluated: a folder of pictures, or an .npz of bytes.

Unlike those of a training set, they are neither cropped nor resized.
"""

import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from absl import logging

from ldm_jax.files.errors import UnreadableFile, shown
from ldm_jax.files.folders import list_folder
from ldm_jax.files.formats.arrays import Npz
from ldm_jax.files.formats.pictures import (
    is_picture,
    list_pictures,
    read_image,
    read_mask,
)
from ldm_jax.files.paths import printable


class ImageSet(NamedTuple):
    """Images of one size.

    Attributes:
      count: how many.
      size: (height, width).
      batches: batch size -> iterator of uint8 [B, H, W, 3], the last one shorter.
      files: one per image; empty for an .npz.
      names: of `files`, without suffixes and relative to the folder.
    """

    count: int
    size: tuple[int, int]
    batches: Callable[[int], Iterator[np.ndarray]]
    files: tuple[pathlib.Path, ...] = ()
    names: tuple[str, ...] = ()


def open_set(path, num: int | None = None) -> ImageSet:
    """Opens images on disk; they are read on demand.

    Args:
      path: a folder (of `ldm-jax sample`, or any; sub-folders count), or an .npz whose
        one 4-axis array (ADM's "arr_0") is uint8 [N, H, W, 3].
      num: take only so many, the first ones.

    Raises:
      ValueError: nothing to read, too few images, sizes that differ, or numbers that
        are not bytes.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        images = _open_folder(path)
    elif path.suffix == ".npz" and path.is_file():
        images = _open_npz(path)
    else:
        raise UnreadableFile(f"images are a folder or an .npz file: got {path}.")
    if num is None or num == images.count:
        return images
    if num > images.count:
        raise ValueError(
            f"{num} images are to be evaluated: {path} has {images.count}; make more, "
            "or ask for fewer (--num)."
        )

    def first(batch_size):
        left = num
        for batch in images.batches(batch_size):
            yield batch[:left]
            left -= len(batch)
            if left <= 0:
                return

    return images._replace(
        count=num, batches=first, files=images.files[:num], names=images.names[:num]
    )


def choose_images(images: ImageSet, rows: Sequence[int]) -> ImageSet:
    """Returns some images of a set, in rising order of their numbers."""
    kept = sorted(rows)

    def batches(batch_size):
        first = 0
        for batch in images.batches(batch_size):
            inside = [row - first for row in kept if first <= row < first + len(batch)]
            first += len(batch)
            if inside:
                yield batch[inside]

    return images._replace(
        count=len(kept),
        batches=batches,
        files=tuple(images.files[row] for row in kept) if images.files else (),
        names=tuple(images.names[row] for row in kept) if images.names else (),
    )


def rows_by_mask_share(masks: str, share: tuple[float, float], count: int) -> list[int]:
    """Lists the images whose mask covers a share of them.

    Args:
      masks: folder of masks, white in the hole; mask i in the order of the names is
        that of image i.
      share: (low, high) shares of the area, both included.
      count: of the images.

    Raises:
      ValueError: there are fewer or more masks than images, or none is in the range.
    """
    files = list_pictures(masks)
    if len(files) != count:
        raise ValueError(
            f"every image has one mask: got {len(files)} masks in {printable(masks)} "
            f"for {count} images; give the masks that the images were painted with."
        )
    low, high = share
    rows = [i for i, f in enumerate(files) if low <= read_mask(f).mean() <= high]
    if not rows:
        raise ValueError(
            f"masks must cover {low:g} to {high:g} of an image: none of the "
            f"{count} in {printable(masks)} does; give another --mask-share."
        )
    return rows


def open_pairs(images: ImageSet, path) -> ImageSet:
    """Opens the images that others are compared with, in the order of the others.

    Files of two folders belong together by name, whatever their suffixes; names that
    are numbers are compared as numbers. Where no name is the same, or one of the sets
    is an .npz, they belong together by position, in the order of their names.

    Args:
      images: of `open_set`.
      path: of the others, as for `open_set`; images of other names are left out.

    Raises:
      ValueError: as `open_set`, or only some of the names have a counterpart.
    """
    others = open_set(path)
    keys = [_key(name) for name in images.names]
    of_key = {
        _key(name): file for name, file in zip(others.names, others.files, strict=True)
    }
    without = [
        n for n, key in zip(images.names, keys, strict=True) if key not in of_key
    ]
    if len(without) == images.count or not images.names:
        if images.names and others.names:
            logging.warning(
                "no image has the name of one in %s: compared in the order of names.",
                printable(path),
            )
        return open_set(path, images.count)
    if without:
        shown_names = ", ".join(without[:3]) + (" ..." if len(without) > 3 else "")
        raise ValueError(
            f"images must be paired with those of {printable(path)} by name: "
            f"{len(without)} of {images.count} have no counterpart "
            f"({printable(shown_names)}); "
            "add them, or rename the files."
        )
    if len(of_key) < others.count or len(set(keys)) < len(keys):
        raise ValueError(
            "images are paired by name, without the suffix, so names must differ: got "
            f"the same name twice; rename one of them ({printable(path)})."
        )
    return _of_files([of_key[key] for key in keys], images.names)


def _key(name: str) -> str:
    """Returns the part of a name to compare: a number without leading zeros."""
    folder, slash, stem = name.rpartition("/")
    return f"{folder}{slash}{int(stem) if stem.isdecimal() else stem}"


def _open_folder(path: pathlib.Path) -> ImageSet:
    # `ldm-jax sample` writes sheets into the folder of its samples, 000000.png ...
    is_ours = (path / "settings.json").is_file()
    listing = list_folder(path)
    for name, reason in listing.left_out.items():
        logging.warning("left out: %s %s.", printable(path / name), reason)
    files = [
        path / file
        for file in listing.files
        if is_picture(file)
        and (not is_ours or pathlib.PurePosixPath(file).stem.isdigit())
    ]
    if not files:
        raise UnreadableFile(f"a folder of images must hold some: {path} holds none.")
    names = [file.relative_to(path).with_suffix("").as_posix() for file in files]
    return _of_files(files, names)


def _of_files(files: Sequence[pathlib.Path], names: Sequence[str]) -> ImageSet:
    """Makes a set of pictures of one size."""
    shape = read_image(files[0]).shape

    def batches(batch_size):
        for low in range(0, len(files), batch_size):
            rows = []
            for file in files[low : low + batch_size]:
                rows.append(read_image(file))
                if rows[-1].shape != shape:
                    raise UnreadableFile(
                        f"images must have one size: {files[0]} is "
                        f"{shape[0]}x{shape[1]}, {file} is {rows[-1].shape[0]}x"
                        f"{rows[-1].shape[1]}; crop and resize them to one."
                    )
            yield np.stack(rows)

    return ImageSet(len(files), shape[:2], batches, tuple(files), tuple(names))


def _open_npz(path: pathlib.Path) -> ImageSet:
    """Reads the array as a stream: it may be larger than the memory."""
    with Npz(path) as stored:
        headers = {name: stored.header(name) for name in stored.names}
    arrays = [name for name, header in headers.items() if len(header.shape) == 4]
    if len(arrays) != 1:
        raise UnreadableFile(
            f"an .npz of images holds one array [N, H, W, 3]: {path} holds "
            f"{shown({name: header.shape for name, header in headers.items()})}."
        )
    dtype, shape, is_fortran = headers[arrays[0]]
    if dtype != np.uint8 or shape[3] != 3 or 0 in shape or is_fortran:
        order = " in Fortran's order" if is_fortran else ""
        raise UnreadableFile(
            f"images are bytes [N, H, W, 3] in [0, 255]: got {dtype} {shape}{order} in "
            f"{path}; truncate as the original does: np.clip((x + 1) * 127.5, 0, 255)"
            ".astype(np.uint8) for x in [-1, 1]."
        )

    def batches(batch_size):
        with Npz(path) as stored:
            yield from stored.batches(arrays[0], batch_size)

    return ImageSet(shape[0], (shape[1], shape[2]), batches)
