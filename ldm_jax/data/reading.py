# SPDX-License-Identifier: Apache-2.0
"""Reads and transforms rows, in threads, ahead of time; tolerates damaged records."""

import functools
import itertools
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from absl import logging

from ldm_jax.data.order import RecordRng, Row
from ldm_jax.data.records import DamagedRecord, Source, neighbour, read_each
from ldm_jax.files.errors import lined

# Arrays by name; captions are str.
Example = dict[str, Any]
Transform = Callable[[Any, np.random.Generator], Example]

# Batches made ahead of the one in use.
READ_AHEAD = 2


# A record's index with what became of it.
Read = tuple[int, Example | DamagedRecord]


def transformed(
    source: Source, transform: Transform, seed: int, rows: Sequence[Row]
) -> list[Read]:
    """Reads and transforms rows, each with its own randomness.

    Args:
      source: the set.
      transform: (record, rng) -> dict of arrays.
      seed: of the randomness.
      rows: to read.

    Returns:
      (index, example) of every row, or (index, error) where the record is damaged.
    """
    rngs = RecordRng(seed)
    records = read_each(source, [row.index for row in rows])
    return [
        (row.index, record)
        if isinstance(record, DamagedRecord)
        else (row.index, transform(record, rngs.at(row)))
        for row, record in zip(rows, records, strict=True)
    ]


def in_threads(
    pool: ThreadPoolExecutor,
    num_threads: int,
    function: Callable[[Sequence[Row]], list],
    rows: Sequence[Row],
) -> list:
    """Applies a function to equal parts of the rows at once; joins the lists."""
    size = -(-len(rows) // num_threads)
    parts = [rows[i : i + size] for i in range(0, len(rows), size)]
    return list(itertools.chain(*pool.map(function, parts)))


class Reader:
    """Reads and transforms rows; replaces damaged records by their neighbours."""

    def __init__(
        self,
        source: Source,
        transform: Transform,
        seed: int,
        num_threads: int,
        max_damaged: int,
    ):
        if not len(source):
            raise ValueError("the data set is empty: choose another set or split.")
        if num_threads < 1:
            raise ValueError(f"num_threads must be at least 1: got {num_threads}.")
        self._source, self._transform, self._seed = source, transform, seed
        self._max_damaged, self._num_threads = max_damaged, num_threads
        self._pool = ThreadPoolExecutor(num_threads) if num_threads > 1 else None
        self._damaged: dict[int, str] = {}

    def read(self, rows: Sequence[Row]) -> list[Example]:
        """Returns the transformed record of every row."""
        if self._pool is None:
            return self._read_part(rows)
        return in_threads(self._pool, self._num_threads, self._read_part, rows)

    def _read_part(self, rows: Sequence[Row]) -> list[Example]:
        part = functools.partial(transformed, self._source, self._transform, self._seed)
        examples = []
        for row, (_, example) in zip(rows, part(rows), strict=True):
            while isinstance(example, DamagedRecord):
                self._count(row.index, example)
                row = Row(row.epoch, neighbour(self._source, row.index))
                ((_, example),) = part([row])
            examples.append(example)
        return examples

    def _count(self, index: int, error: DamagedRecord) -> None:
        """Counts a damaged record; raises if there are too many."""
        if index in self._damaged and len(self._damaged) < len(self._source):
            return
        self._damaged[index] = str(error)
        logging.warning("record %d is replaced by the next: %s", index, error)
        bound = min(self._max_damaged, len(self._source) - 1)
        if len(self._damaged) > bound:
            shown = lined(list(self._damaged.values())[:10])
            raise DamagedRecord(
                f"more than max_damaged = {self._max_damaged} records are damaged:"
                f"{shown}\nMend or remove them, or raise the bound."
            )


def read_ahead(
    make: Callable[[], Iterator[Any]],
) -> Generator[Any, None, None]:
    """Runs an iterator in a thread, READ_AHEAD items before the consumer.

    Args:
      make: makes the iterator; called in the thread.

    Yields:
      Its items. An error in the thread is raised here; closing this generator ends the
      thread.
    """
    items: queue.Queue = queue.Queue(READ_AHEAD)
    stop, end = threading.Event(), object()

    def put(item) -> bool:
        while not stop.is_set():
            try:
                items.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def run():
        try:
            for item in make():
                if not put((item, None)):
                    return
            put((end, None))
        except BaseException as error:  # whatever it is, the consumer must hear of it
            put((end, error))

    thread = threading.Thread(target=run, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = items.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        stop.set()
        thread.join()
