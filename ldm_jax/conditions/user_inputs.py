# SPDX-License-Identifier: Apache-2.0
"""Reads the files and arrays that users give for a condition.

Every error names the file or the value, and how to correct it.
"""

import pathlib
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from ldm_jax.files.formats.pictures import list_pictures, read_image, read_mask


def to_image(item: Any) -> Float[np.ndarray, "H W 3"]:
    """Reads an image in [-1, 1] from a file or bytes.

    Raises:
      ValueError: an array that is not uint8 [H, W, 3].
    """
    if isinstance(item, (str, pathlib.Path)):
        item = read_image(item)
    item = np.asarray(item)
    if item.ndim != 3 or item.shape[2] != 3 or item.dtype != np.uint8:
        raise ValueError(
            f"an image is a file, or uint8 [H, W, 3]: got {item.dtype} {item.shape}; "
            "bring it to bytes in [0, 255] and three channels."
        )
    return item.astype(np.float32) / 127.5 - 1


def to_mask(item: Any) -> Float[np.ndarray, "H W 1"]:
    """Reads a mask, 1 in the hole, from a file or an array; see `files.pictures`.

    Raises:
      ValueError: an array that is neither uint8 nor bool [H, W].
    """
    if isinstance(item, (str, pathlib.Path)):
        item = read_mask(item)
    item = np.asarray(item)
    if item.dtype == bool:
        item = item.astype(np.uint8) * 255
    if item.ndim != 2 or item.dtype != np.uint8:
        raise ValueError(
            f"a mask is uint8 [H, W], 255 in the hole, or bool: got {item.dtype} "
            f"{item.shape}."
        )
    return (item >= 128).astype(np.float32)[..., None]


def as_list(value: Any) -> list:
    """Makes one thing a list of one."""
    if isinstance(value, (list, tuple)):
        return list(value)
    return [value]


def pictures(value: Any) -> list:
    """Lists pictures: one, a list of them, or the files of a folder in sorted order."""
    if isinstance(value, (str, pathlib.Path)):
        folder = pathlib.Path(value).expanduser()
        return list_pictures(folder) if folder.is_dir() else [value]
    return as_list(value)


def check_sides(shape: tuple[int, ...], f: int, where: Any) -> None:
    """Raises ValueError unless height and width are multiples of f."""
    if shape[0] % f or shape[1] % f:
        raise ValueError(
            f"height and width must be multiples of {f}: got {shape[0]}x{shape[1]} in "
            f"{where}; crop it to {shape[0] // f * f}x{shape[1] // f * f}."
        )


def stack(items: list[np.ndarray], what: str) -> Shaped[np.ndarray, "B ..."]:
    """Stacks arrays of equal shape.

    Raises:
      ValueError: shapes differ.
    """
    shapes = {item.shape for item in items}
    if len(shapes) != 1:
        raise ValueError(
            f"the {what} of one batch must have one size: got {sorted(shapes)}; pass "
            "them one by one."
        )
    return np.stack(items)


def side_by_side(x: np.ndarray) -> str:
    """Formats the size of an array [H, W, ...] as "HxW", for errors."""
    return f"{x.shape[0]}x{x.shape[1]}"
