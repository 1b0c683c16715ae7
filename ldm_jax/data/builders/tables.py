# SPDX-License-Identifier: Apache-2.0
"""Images and captions in the rows of parquet files."""

import bisect
import itertools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow.parquet

from ldm_jax.data.builders.files import Files
from ldm_jax.data.records import DamagedRecord, reading_record
from ldm_jax.files.errors import UnreadableFile, reading

# Columns, the first that is there: bytes of a file, or a struct of "bytes" and "path"
# as sets of Hugging Face have; and a text, or a list of texts.
IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp")
CAPTION_COLUMNS = ("caption", "captions", "text", "txt")
# Rows in memory at a time.
ROWS_AT_ONCE = 16


class Tables:
    """Reads rows of parquet files by name, "FILE/ROW"; fastest in their order.

    Files without a column of images, which img2dataset writes next to its tars, have no
    rows.
    """

    def __init__(self, files: Files, names: Sequence[str]):
        """Opens files.

        Args:
          files: of the set.
          names: of its parquet files.

        Raises:
          ValueError: a file is damaged, is in an archive, or has no captions.
        """
        tables = {name: Table(name, files.path(name)) for name in names}
        self._tables = {name: t for name, t in tables.items() if t.image is not None}

    def names(self) -> list[str]:
        """Lists the rows of all files."""
        return [
            f"{name}/{row:08d}"
            for name, table in self._tables.items()
            for row in range(len(table))
        ]

    def __contains__(self, name: str) -> bool:
        return name.rpartition("/")[0] in self._tables

    def example(self, name: str) -> dict[str, Any]:
        """Reads a row: "image", the bytes of a file, and "captions".

        Raises:
          DamagedRecord: it cannot be read, or lacks one of the two.
        """
        table, _, row = name.rpartition("/")
        return self._tables[table].example(int(row))

    def size(self, name: str) -> int:
        """Returns the mean bytes of a row of the same file; reads no row."""
        return self._tables[name.rpartition("/")[0]].mean_bytes


class Table:
    """One parquet file, of which a few rows are in memory.

    Attributes:
      image: name of the column of images, or None.
      mean_bytes: of a row.
    """

    def __init__(self, name: str, path: pathlib.Path):
        with reading(path, rule="is damaged"):
            # Without buffers of whole columns, which may be as large as the file.
            self._file = pyarrow.parquet.ParquetFile(
                path, pre_buffer=False, buffer_size=2**20
            )
        columns = self._file.schema_arrow.names
        self._name = name
        self.image = _first(IMAGE_COLUMNS, columns)
        self._caption = _first(CAPTION_COLUMNS, columns)
        if self.image is not None and self._caption is None:
            raise UnreadableFile(
                f"{path} must have a column of captions, {', '.join(CAPTION_COLUMNS)}: "
                f"got {', '.join(columns)}."
            )
        groups = self._file.metadata
        groups = [groups.row_group(i) for i in range(groups.num_row_groups)]
        self._starts = [0, *itertools.accumulate(g.num_rows for g in groups)]
        total = sum(group.total_byte_size for group in groups)
        self.mean_bytes = total // max(1, len(self))
        self._rows: Iterator[dict[str, Any]] = iter(())
        self._next = -1  # the row that `_rows` gives next

    def __len__(self) -> int:
        return self._starts[-1]

    def example(self, row: int) -> dict[str, Any]:
        """Reads a row, and if necessary the rows before it in its group."""
        group = bisect.bisect_right(self._starts, row) - 1
        if not self._starts[group] <= self._next <= row:
            self._rows, self._next = self._from(group), self._starts[group]
        skipped, self._next = row - self._next, -1
        with reading_record(), reading(f"{self._name}/{row:08d}", data=b"-"):
            values = next(itertools.islice(self._rows, skipped, None))
        self._next = row + 1
        return self._read(row, values)

    def _from(self, group: int) -> Iterator[dict[str, Any]]:
        """Reads rows from the beginning of a group to the end of the file."""
        batches = self._file.iter_batches(
            ROWS_AT_ONCE,
            row_groups=range(group, self._file.num_row_groups),
            columns=[self.image, self._caption],
        )
        return (row for batch in batches for row in batch.to_pylist())

    def _read(self, row: int, values: dict[str, Any]) -> dict[str, Any]:
        """Makes an example of a row's columns."""
        assert (
            self.image is not None and self._caption is not None
        )  # else no row is read
        image, captions = values[self.image], values[self._caption]
        image = image.get("bytes") if isinstance(image, dict) else image
        captions = captions if isinstance(captions, list) else [captions]
        captions = [str(c).strip() for c in captions if c and str(c).strip()]
        for what, value in {"bytes of an image": image, "caption": captions}.items():
            if not value or (what != "caption" and not isinstance(value, bytes)):
                raise DamagedRecord(f"{self._name}/{row:08d} has no {what}")
        return {"image": image, "captions": captions}


def _first(candidates: Sequence[str], columns: Sequence[str]) -> str | None:
    return next((name for name in candidates if name in columns), None)
