# SPDX-License-Identifier: Apache-2.0
"""Random access to the records of ArrayRecord files, local or on an object store.

ArrayRecord's own client for gs:// requests every record separately, one after the
other. So files of a store are copied to this machine when they are first needed, see
`files.copies`.
"""

import bisect
import concurrent.futures
import dataclasses
import itertools
import os
import threading
from collections.abc import Sequence

from array_record.python.array_record_module import ArrayRecordReader

from ldm_jax.data.records import DamagedRecord
from ldm_jax.files.errors import reading
from ldm_jax.files.stores.copies import Copies
from ldm_jax.files.stores.objects import StoredObject

# Without these, ArrayRecord reads ahead as if the order were sequential.
READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
# Files that are checked at once: a network file system answers after milliseconds.
NUM_THREADS = 16


@dataclasses.dataclass(frozen=True)
class RecordFile:
    """A file of records, or a part of one.

    Attributes:
      path: of the file; may be a URL.
      count: records in the file.
      skip: how many of these are left out at the beginning.
      take: how many are taken after these; None takes all.
      item: of a URL, the object as the store lists it.
    """

    path: str
    count: int
    skip: int = 0
    take: int | None = None
    item: StoredObject | None = None

    @property
    def length(self) -> int:
        """The number of records of the part."""
        return self.count - self.skip if self.take is None else self.take


class RecordFiles:
    """The records of several files in sequence, as bytes; safe to read from threads."""

    def __init__(self, files: Sequence[RecordFile], what: str):
        """Opens the files when they are read.

        Args:
          files: whose records are numbered through.
          what: names them in errors: the folder of the set.

        Raises:
          WriteError: the disk is too small for the copies of a set on a store.
        """
        self.files = list(files)
        self._ends = list(itertools.accumulate(file.length for file in files))
        self._readers: dict[int, ArrayRecordReader] = {}
        self._lock = threading.Lock()
        objects = [file.item for file in files if file.item is not None]
        self._copies = Copies(objects, what) if objects else None
        self._requested: set[int] = set()

    def check(self) -> None:
        """Opens every local file once and compares its number of records.

        That reads the end of each file. Those of a store are left out, since they would
        be copied.

        Raises:
          UnreadableFile: a file is cut off, or not the one that the metadata describe.
        """
        counts = {file.path: file.count for file in self.files if file.item is None}

        def check(path: str) -> None:
            advice = "It is cut off, damaged or of another set: copy it again."
            with reading(path, rule="must be a shard of the set", advice=advice):
                _opened(path, counts[path]).close()

        with concurrent.futures.ThreadPoolExecutor(NUM_THREADS) as pool:
            list(pool.map(check, counts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> bytes:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[bytes]:
        by_file: dict[int, list[tuple[int, int]]] = {}
        for place, index in enumerate(indices):
            number, position = self.locate(index)
            by_file.setdefault(number, []).append((place, position))
        self._read_ahead(list(by_file))
        records = [b""] * len(indices)
        for number, rows in by_file.items():
            examples = self.read(number, [position for _, position in rows])
            for (place, _), data in zip(rows, examples, strict=True):
                records[place] = data
        return records

    def locate(self, index: int) -> tuple[int, int]:
        """Returns (number of the file, position in it) of a record."""
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        number = bisect.bisect_right(self._ends, index)
        first = self._ends[number - 1] if number else 0
        return number, int(index) - first + self.files[number].skip

    def read(self, number: int, positions: Sequence[int]) -> list[bytes]:
        """Reads records of one file.

        Raises:
          DamagedRecord: they are damaged, or the file is.
          UnreadableFile: a copy is not what the set's metadata describe.
          MissingFile: the object was deleted.
          OSError: the store could not be read, or the disk is full.
        """
        file, reader = self.files[number], self._readers.get(number)
        path = self._local(file) if reader is None else ""
        try:
            with self._lock:
                reader = self._readers.get(number) or _opened(path, file.count)
                self._readers[number] = reader
                return reader.read(list(positions))
        except (RuntimeError, ValueError, IndexError) as error:
            self._readers.pop(number, None)  # one that failed stays failed
            raise DamagedRecord(
                f"{file.path}, records {list(positions[:4])}: {error}"
            ) from error

    def close(self) -> None:
        """Closes the files; they are opened again when they are read."""
        self._readers.clear()

    def _local(self, file: RecordFile) -> str:
        """Returns the local path of a file."""
        if self._copies is None or file.item is None:
            return file.path
        return os.fspath(self._copies.path(file.item.url))

    def _read_ahead(self, numbers: list[int]) -> None:
        """Starts copying the files that are needed next.

        What reads from several files at once reads at random, and will need all; what
        reads from one goes through them in order.
        """
        if self._copies is None or not numbers:
            return
        later = range(len(self.files)) if len(numbers) > 1 else [numbers[0] + 1]
        new = [
            number
            for number in dict.fromkeys([*numbers, *later])
            if number < len(self.files) and number not in self._requested
        ]
        self._requested.update(new)
        items = [self.files[number].item for number in new]
        self._copies.read_ahead(item.url for item in items if item is not None)


def _opened(path: str, count: int) -> ArrayRecordReader:
    """Opens a file; ValueError if it does not have `count` records."""
    reader = ArrayRecordReader(path, READER_OPTIONS)
    if reader.num_records() != count:
        raise ValueError(f"it has {reader.num_records()} records, not {count}")
    return reader
