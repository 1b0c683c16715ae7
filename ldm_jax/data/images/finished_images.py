# SPDX-License-Identifier: Apache-2.0
"""Reads finished images to be evaluated: a folder of pictures, or an .npz of bytes.

Unlike a training set they are taken as they are: no crop, no resize.
"""

import pathlib
import zipfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


class ImageSet(NamedTuple):
    """Images of one size.

    Attributes:
      count: how many.
      size: (height, width).
      batches: batch size -> iterator of uint8 [B, H, W, 3], the last one shorter.
    """

    count: int
    size: tuple[int, int]
    batches: Callable[[int], Iterator[np.ndarray]]


def open_set(path, num: int | None = None) -> ImageSet:
    """Opens images on disk; they are read as they are asked for.

    Args:
      path: a folder (of `ldm-jax sample`, or any; sub-folders count), or an .npz whose
        one 4-axis array (ADM's "arr_0") is uint8 [N, H, W, 3].
      num: take only so many, the first ones.

    Raises:
      ValueError: nothing to read, too few images, sizes that differ, or numbers that
        are no bytes.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        found = _open_folder(path)
    elif path.suffix == ".npz" and path.is_file():
        found = _open_npz(path)
    else:
        raise ValueError(f"images are a folder or an .npz file: got {path}.")
    if num is None or num == found.count:
        return found
    if num > found.count:
        raise ValueError(
            f"{num} images are to be evaluated: {path} holds {found.count}; make more, "
            "or ask for fewer (--num)."
        )

    def first(batch_size):
        left = num
        for batch in found.batches(batch_size):
            yield batch[:left]
            left -= len(batch)
            if left <= 0:
                return

    return found._replace(count=num, batches=first)


def _open_folder(path: pathlib.Path) -> ImageSet:
    # Beside its samples, 000000.png ..., `ldm-jax sample` leaves sheets of them.
    is_ours = (path / "settings.json").is_file()
    files = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in SUFFIXES and (not is_ours or file.stem.isdigit())
    )
    if not files:
        raise ValueError(f"a folder of images must hold some: {path} holds none.")
    shape = _read(files[0]).shape

    def batches(batch_size):
        for low in range(0, len(files), batch_size):
            rows = []
            for file in files[low : low + batch_size]:
                rows.append(_read(file))
                if rows[-1].shape != shape:
                    raise ValueError(
                        f"images must have one size: {files[0]} is "
                        f"{shape[0]}x{shape[1]}, {file} is {rows[-1].shape[0]}x"
                        f"{rows[-1].shape[1]}; crop and resize them to one."
                    )
            yield np.stack(rows)

    return ImageSet(len(files), shape[:2], batches)


def _read(file) -> np.ndarray:
    try:
        with Image.open(file) as picture:
            return np.asarray(picture.convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"an image must be readable: {file} ({error}).") from error


def _open_npz(path: pathlib.Path) -> ImageSet:
    """Reads the array as a stream: it may be larger than the memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            headers = {name: _header(archive, name) for name in archive.namelist()}
    except (zipfile.BadZipFile, ValueError) as error:
        raise ValueError(f"{path} is no readable .npz: {error}.") from error
    arrays = [name for name, (shape, _) in headers.items() if len(shape) == 4]
    if len(arrays) != 1:
        raise ValueError(
            f"an .npz of images holds one array [N, H, W, 3]: {path} holds "
            f"{ {name: shape for name, (shape, _) in headers.items()} }."
        )
    shape, dtype = headers[arrays[0]]
    if dtype != np.uint8 or shape[3] != 3 or not shape[0]:
        raise ValueError(
            f"images are bytes [N, H, W, 3] in [0, 255]: got {dtype} {shape} in "
            f"{path}; truncate as the original does: np.clip((x + 1) * 127.5, 0, 255)"
            ".astype(np.uint8) for x in [-1, 1]."
        )

    def batches(batch_size):
        item = int(np.prod(shape[1:]))
        with zipfile.ZipFile(path) as archive, archive.open(arrays[0]) as stream:
            _read_header(stream)
            for low in range(0, shape[0], batch_size):
                count = min(batch_size, shape[0] - low)
                data = np.frombuffer(stream.read(count * item), np.uint8)
                yield data.reshape(count, *shape[1:])

    return ImageSet(shape[0], shape[1:3], batches)


def _header(archive, name: str):
    with archive.open(name) as stream:
        return _read_header(stream)


def _read_header(stream) -> tuple[tuple[int, ...], np.dtype]:
    """Reads what an .npy says of itself: shape and dtype; the data follow."""
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"an array of format {version}")
    shape, is_fortran, dtype = read(stream)
    if is_fortran and len(shape) == 4:
        raise ValueError("images in Fortran's order; save them in C's")
    return shape, dtype
