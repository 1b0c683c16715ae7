# SPDX-License-Identifier: Apache-2.0
"""Locates tensors in files, and reads them when they are accessed."""

import pathlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np


class Stored(NamedTuple):
    """Where a tensor is stored in a file.

    Attributes:
      path: the file.
      offset: bytes from the start of the file to the first element.
      dtype: of the elements.
      shape: sizes of the axes.
      strides: bytes between neighbours along each axis, none negative.
    """

    path: pathlib.Path
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Weights(Mapping[str, np.ndarray]):
    """Read-only {name: ndarray}; an array is mapped from its file on each access.

    Attributes:
      stored: {name: where it is stored, or the array itself}.
      notes: sentences on how the names were made of those in the file.
    """

    def __init__(
        self, stored: Mapping[str, Stored | np.ndarray], notes: tuple[str, ...] = ()
    ):
        self.stored = dict(stored)
        self.notes = notes

    def __getitem__(self, name: str) -> np.ndarray:
        """Maps the tensor: its pages are read when used and dropped with the array."""
        at = self.stored[name]
        if isinstance(at, np.ndarray):
            return at
        if 0 in at.shape:
            return np.zeros(at.shape, at.dtype)
        steps = zip(at.shape, at.strides, strict=True)
        span = sum((size - 1) * stride for size, stride in steps) + at.dtype.itemsize
        data = np.memmap(at.path, np.uint8, mode="r", offset=at.offset, shape=(span,))
        # The bytes are viewed, not copied, whatever the alignment in the file.
        return np.ndarray(at.shape, at.dtype, buffer=data, strides=at.strides)

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)

    def __contains__(self, name) -> bool:
        return name in self.stored


class Renamed(Mapping[str, np.ndarray]):
    """Some arrays of a mapping under other names; nothing is copied or mapped."""

    def __init__(self, weights: Mapping[str, np.ndarray], names: Mapping[str, str]):
        """Takes weights, and {new name: name in `weights`}."""
        self._weights, self._names = weights, dict(names)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._weights[self._names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name) -> bool:
        return name in self._names


class HalfPrecision(Mapping[str, np.ndarray]):
    """Arrays of a mapping in float16, each converted when it is accessed."""

    def __init__(self, weights: Mapping[str, np.ndarray]):
        self._weights = weights

    def __getitem__(self, name: str) -> np.ndarray:
        """Converts an array; whole numbers stay as they are.

        Raises:
          ValueError: a value is beyond what float16 holds.
        """
        array = np.asarray(self._weights[name])
        if array.dtype.kind != "f":
            return array
        with np.errstate(over="ignore"):
            # In C order, so that a writer needs no further copy.
            half = array.astype(np.float16, order="C")
        if not np.isfinite(half).all():
            raise ValueError(
                f"half precision holds numbers up to {np.finfo(np.float16).max:.0f}: "
                f"{name} has {np.abs(array).max():.3g}; leave the variant out."
            )
        return half

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def contiguous_strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Strides in bytes of a C-ordered array."""
    strides = [itemsize] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    return tuple(strides)
