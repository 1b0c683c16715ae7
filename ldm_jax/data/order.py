# SPDX-License-Identifier: Apache-2.0
"""Computes the order of records, and each record's random seed, from the run's seed.

Position p of the endless stream of records belongs to epoch p // n and is record
shuffle_epoch(p % n). The permutation is computed, not stored (grain's index shuffle),
so memory does not grow with the set and the only state is a number.

grain's MapDataset has the same order and state, but reads records one by one (10,000
latents of 16 KiB per second on one core, 20,000 here) and ends at a damaged record.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from grain.experimental import index_shuffle

# Rounds of the Feistel network in the index shuffle; grain's own default.
ROUNDS = 4


class Row(NamedTuple):
    """The record at a position of the stream: its index and its epoch."""

    epoch: int
    index: int


def shuffled_rows(seed: int, num_records: int, start: int, stop: int) -> list[Row]:
    """Finds the records at positions start to stop - 1 of the shuffled stream.

    Args:
      seed: non-negative.
      num_records: n >= 1.
      start: >= 0.
      stop: >= start.

    Returns:
      stop - start rows; every index comes once per epoch, in another order each.
    """
    return _shuffled(num_records, start, stop, seed)


def shuffled_rows_of_part(
    seed: int, part: int, num_records: int, start: int, stop: int
) -> list[Row]:
    """Returns the shuffled rows of one of several sets, each in its own order."""
    # The last word keeps these seeds apart from those of other purposes.
    return _shuffled(num_records, start, stop, seed, part, 2)


def turn(seed: int, quotas: Sequence[int], position: int) -> tuple[int, int]:
    """Chooses the set of each record of a mixture, by quotas.

    Of every sum(quotas) turns, part k gets exactly quotas[k], in shuffled order.

    Args:
      seed: non-negative.
      quotas: turns of each part.
      position: >= 0.

    Returns:
      (part, how many turns it had before).
    """
    block, place = divmod(position, sum(quotas))
    part, before = _turns_of_block(seed, tuple(quotas), block)[place]
    return part, block * quotas[part] + before


@functools.lru_cache(16)
def _turns_of_block(
    seed: int, quotas: tuple[int, ...], block: int
) -> list[tuple[int, int]]:
    """Lists (part, how many turns it had before in this block) of a block's turns."""
    parts = [part for part, quota in enumerate(quotas) for _ in range(quota)]
    order, had, turns = _permutation(len(parts), seed, block, 1), [0] * len(quotas), []
    for place in range(len(parts)):
        part = parts[order(place)]
        turns.append((part, had[part]))
        had[part] += 1
    return turns


def _shuffled(
    num_records: int, start: int, stop: int, seed: int, *words: int
) -> list[Row]:
    rows: list[Row] = []
    while start < stop:
        epoch, place = divmod(start, num_records)
        count = min(stop - start, num_records - place)
        order = _permutation(num_records, seed, epoch, *words)
        rows += [Row(epoch, order(p)) for p in range(place, place + count)]
        start += count
    return rows


def _permutation(size: int, *words: int) -> Callable[[int], int]:
    """Returns a permutation of range(size) as a function."""
    return functools.partial(
        index_shuffle, max_index=size - 1, seed=_seed_of(*words), rounds=ROUNDS
    )


@functools.lru_cache(1024)
def _seed_of(*words: int) -> int:
    return int(np.random.SeedSequence(words).generate_state(1)[0])


class RecordRng:
    """Gives every record its own generator, a pure function of (seed, epoch, index).

    Philox is a counter cipher: the seed and the epoch are its key, the index is in the
    upper half of its counter, so no two records share a stream. One generator is moved
    about instead of making a new one (5 against 25 microseconds), so use one record's
    before asking for the next, and one `RecordRng` per thread.
    """

    def __init__(self, seed: int):
        self._bits = np.random.Philox(key=[seed, 0])
        self._generator = np.random.Generator(self._bits)
        self._state = self._bits.state

    def at(self, row: Row) -> np.random.Generator:
        """Returns the generator of one record, at the beginning of its stream."""
        self._state["state"]["key"][1] = row.epoch
        self._state["state"]["counter"][:] = (0, 0, row.index, 0)
        self._bits.state = self._state
        return self._generator
