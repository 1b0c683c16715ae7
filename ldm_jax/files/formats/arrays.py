# SPDX-License-Identifier: Apache-2.0
"""Reads .npy and .npz files that are not trusted, without pickles; writes .npz."""

import io
import math
import zipfile
from collections.abc import Container, Iterable, Iterator
from typing import IO, NamedTuple

import numpy as np

from ldm_jax.files.errors import UnreadableFile, reading
from ldm_jax.files.formats.archives import ZipMembers
from ldm_jax.files.paths import PathLike, printable
from ldm_jax.files.progress import progress
from ldm_jax.files.writing import atomic_file

# Of one compressed array that is read as a whole; one that is not compressed is bounded
# by its file. Statistics of 2,048 features, which pytorch-fid compresses, have 34 MB.
MAX_INFLATED_BYTES = 2**30

# Of one file or checkpoint: each takes up to a millisecond to open, however small it
# is. Published models have up to 3,000; the state of an optimizer makes that 9,000.
MAX_ARRAYS = 20_000

# Kinds of dtypes: bool, integers, floats, complex numbers, texts, bytes; no objects.
KINDS = "biufcUS"


class ArrayHeader(NamedTuple):
    """The header of an .npy file; `is_fortran` is the order of elements."""

    dtype: np.dtype
    shape: tuple[int, ...]
    is_fortran: bool

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return math.prod(self.shape) * self.dtype.itemsize


class Npz:
    """The arrays of an .npz file, read one at a time; use it in a `with`.

    Attributes:
      names: of the arrays.
    """

    def __init__(self, path: PathLike):
        """Opens a file.

        Raises:
          UnreadableFile: no .npz, see `ZipMembers`; or more than MAX_ARRAYS.
        """
        self._path, self._zip = path, ZipMembers(path)
        check_num_arrays(path, len(self._zip.sizes))
        self.names = tuple(name.removesuffix(".npy") for name in self._zip.sizes)

    def header(self, name: str) -> ArrayHeader:
        """Reads dtype and shape of an array."""
        with self._reading(name), self._open(name) as file:
            return read_header(file, self._size(name))

    def read(self, name: str) -> np.ndarray:
        """Reads an array.

        Raises:
          UnreadableFile: objects instead of numbers or texts, a shape that does not
            fit the file, damage, or more than MAX_INFLATED_BYTES compressed.
        """
        self._zip.check_inflated(self._member(name), MAX_INFLATED_BYTES)
        with self._reading(name), self._open(name) as file:
            return read_array(file, self._size(name))

    def batches(self, name: str, count: int) -> Iterator[np.ndarray]:
        """Yields an array in parts of `count` entries along its first axis.

        Raises:
          UnreadableFile: as `read`, and for an array in Fortran's order.
        """
        with self._reading(name), self._open(name) as file:
            header = read_header(file, self._size(name))
            if header.is_fortran or not header.shape:
                raise ValueError("it must be in C's order, with at least one axis")
            for start in range(0, header.shape[0], count):
                part = min(count, header.shape[0] - start)
                shape = (part, *header.shape[1:])
                yield _elements(file, ArrayHeader(header.dtype, shape, False))

    def close(self) -> None:
        """Closes the file."""
        self._zip.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _reading(self, name: str):
        return reading(self._path, f"array {printable(name)}")

    def _open(self, name: str) -> IO[bytes]:
        return self._zip.open(self._member(name))

    def _size(self, name: str) -> int:
        return self._zip.sizes[self._member(name)]

    def _member(self, name: str) -> str:
        return name if name in self._zip.sizes else f"{name}.npy"


def check_num_arrays(path: PathLike, count: int) -> None:
    """Raises UnreadableFile if a file claims more arrays than are read of one."""
    if count > MAX_ARRAYS:
        raise UnreadableFile(
            f"{printable(path)} must hold at most {MAX_ARRAYS:,} arrays: it has "
            f"{count:,}; it is of another kind, or made to take time. Save the "
            "parameters of one model alone."
        )


def read_npz(path: PathLike, skip: Container[str] = ()) -> dict[str, np.ndarray]:
    """Reads the arrays of an .npz file, except for `skip`; errors as for `Npz`."""
    with Npz(path) as stored:
        return {name: stored.read(name) for name in stored.names if name not in skip}


def write_npz(
    path: PathLike,
    arrays: Iterable[tuple[str, np.ndarray]],
    num_bytes: int,
    is_compressed: bool = False,
) -> None:
    """Writes an .npz file, one array in memory at a time, with a progress bar.

    Args:
      path: the file; an older one is replaced when the new one is complete.
      arrays: (name, array), made when it is its turn.
      num_bytes: of all arrays together, for the bar.
      is_compressed: whether arrays are deflated.
    """
    method = zipfile.ZIP_DEFLATED if is_compressed else zipfile.ZIP_STORED
    with (
        progress(path, num_bytes) as bar,
        atomic_file(path) as file,
        zipfile.ZipFile(file, "w", method) as archive,
    ):
        for name, array in arrays:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
            bar.update(array.nbytes)


def parse_npy(data: bytes, path: PathLike) -> np.ndarray:
    """Reads the array of an .npy file from its bytes.

    Raises:
      UnreadableFile: as `Npz.read`.
    """
    with reading(path, data=data, rule="is not a NumPy array"):
        return read_array(io.BytesIO(data), len(data))


def read_array(file: IO[bytes], size: int) -> np.ndarray:
    """Reads an array in the format of .npy; for use within `reading`."""
    return _elements(file, read_header(file, size))


def read_header(file: IO[bytes], size: int) -> ArrayHeader:
    """Reads and checks the header of an .npy of `size` bytes; see `read_array`."""
    version = np.lib.format.read_magic(file)
    start = 8 + {(1, 0): 2, (2, 0): 4}[version]
    length = int.from_bytes(file.read(start - 8), "little")
    if length > 10_000:  # NumPy's own bound: the header is parsed as Python
        raise ValueError("the header is too long")
    text = file.read(length)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    prefix = length.to_bytes(start - 8, "little")
    try:
        shape, is_fortran, dtype = read(io.BytesIO(prefix + text))
    except MemoryError:  # of Python's parser, for too many parentheses
        raise ValueError("the header is nested too deep") from None
    header = ArrayHeader(dtype, tuple(shape), is_fortran)
    if dtype.hasobject or dtype.kind not in KINDS or dtype.itemsize == 0:
        raise ValueError(f"an array must hold numbers or texts, not {dtype}")
    if any(type(n) is not int or n < 0 for n in shape):
        raise ValueError(f"a shape of {shape}")
    if start + length + header.nbytes != size:
        raise ValueError(
            f"{dtype} {shape} takes {header.nbytes:,} bytes, the file has "
            f"{size - start - length:,}"
        )
    return header


def _elements(file: IO[bytes], header: ArrayHeader) -> np.ndarray:
    """Reads the elements of an array."""
    data = bytearray(header.nbytes)
    view, done = memoryview(data), 0
    while done < len(data):
        part = file.read(min(len(data) - done, 2**24))
        if not part:
            raise EOFError("it is cut off")
        view[done : done + len(part)] = part
        done += len(part)
    order = "F" if header.is_fortran else "C"
    return np.frombuffer(data, header.dtype).reshape(header.shape, order=order)
