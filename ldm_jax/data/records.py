# SPDX-License-Identifier: Apache-2.0
"""Defines records, the sources that they are read from, and names of sets.

A record is a dict of NumPy arrays, except for captions:

    image       uint8 [H0, W0, 3]     RGB; every source converts to this
    label       int32 []              class, in [0, number of classes)
    captions    tuple of str
    boxes       float32 [N, 4]        x, y, width, height as fractions of the image
    box_labels  int32 [N]
    box_attributes  int32 [N]         bits of Open Images' attributes, lowest first
    label_map   uint8 [H0, W0]        class of every pixel
    embeddings  float16 [k, d]        of the image's neighbours, see `WithNeighbours`
    moments     float [h, w, 2c]      mean and log-variance; VQ: [h, w, c]
    moments_flip                      the same of the mirrored image
    source_index  int64 []            index of a latent's image in its image set

A source is anything with a length, `source[i]`, `source.__getitems__(indices)` and a
`fingerprint`: random access, so that the order of the data is a matter of indices.
"""

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from ldm_jax.files.errors import UnreadableFile

Record = dict[str, Any]

# Fields of examples that differ in the mirror image.
MIRRORED = ("image", "boxes", "label_map", "low_res", "mask")
# Fields of examples in [-1, 1] that came from uint8 and are stored as such.
PICTURES = {"image", "low_res"}
# Damaged records that `read_whole` steps over.
MAX_IN_A_ROW = 100


class DamagedRecord(UnreadableFile):
    """Raised for a record that cannot be read; the message names it and the reason."""


@contextlib.contextmanager
def reading_record(name: str = "") -> Iterator[None]:
    """Turns a file that cannot be read, within the block, into a damaged record.

    Args:
      name: of the record, where the file's error does not say it.

    Raises:
      DamagedRecord: whatever the kind of damage.
    """
    try:
        yield
    except DamagedRecord:
        raise
    except (UnreadableFile, OSError) as error:
        raise DamagedRecord(f"{name}: {error}" if name else str(error)) from error


class Source(Protocol):
    """A set of records with random access."""

    fingerprint: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def __getitems__(self, indices: Sequence[int]) -> list[Record]: ...


def fingerprint(metadata: Any) -> str:
    """Names a set by its metadata: the first 16 hex digits of a SHA-256 of their JSON.

    Args:
      metadata: anything JSON can write; dicts count as equal in any order.

    Returns:
      16 hex digits.
    """
    text = json.dumps(metadata, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_each(source: Source, indices: Sequence[int]) -> list[Record | DamagedRecord]:
    """Reads records, giving the error in the place of one that is damaged.

    Args:
      source: the set.
      indices: of the records, each in [0, len(source)).

    Returns:
      For every index its record, or the `DamagedRecord` that reading it raised.
    """
    try:
        return list(source.__getitems__(indices))
    except DamagedRecord:
        return [_read(source, i) for i in indices]


def neighbour(source: Source, index: int) -> int:
    """Returns the index of the record that replaces a damaged one."""
    following = getattr(source, "neighbour", lambda index: (index + 1) % len(source))
    return following(index)


def read_whole(source: Source, indices: Iterable[int]) -> list[tuple[int, Record]]:
    """Reads records, the next one in place of a damaged one, as in training.

    For what looks at some records of a set: a sheet, a preview, the names of fields.

    Args:
      source: the set.
      indices: of the records, each in [0, len(source)).

    Returns:
      (index, record) of every record that was read.

    Raises:
      DamagedRecord: MAX_IN_A_ROW records, or all of the set, are damaged.
    """
    requested = [int(index) for index in indices]
    read = read_each(source, requested)
    return [
        _whole(source, index, record)
        for index, record in zip(requested, read, strict=True)
    ]


def _whole(
    source: Source, index: int, record: Record | DamagedRecord
) -> tuple[int, Record]:
    for _ in range(min(MAX_IN_A_ROW, len(source)) - 1):
        if not isinstance(record, DamagedRecord):
            break
        logging.warning("record %d is replaced by the next: %s", index, record)
        index = neighbour(source, index)
        record = _read(source, index)
    if isinstance(record, DamagedRecord):
        raise record
    return index, record


def _read(source: Source, index: int) -> Record | DamagedRecord:
    try:
        return source[index]
    except DamagedRecord as error:
        return error
