# SPDX-License-Identifier: Apache-2.0
"""The order of the data as a pure function of the seed; every record's own randomness.

Position p of the endless stream of records belongs to epoch p // n and is record
shuffle_epoch(p % n): a permutation that is computed, not stored (grain's index
shuffle), so nothing grows with the set and the only state is a number.
"""

from typing import NamedTuple

import numpy as np
from grain.experimental import index_shuffle

# Rounds of the Feistel network in the index shuffle; grain's own default.
ROUNDS = 4


class Row(NamedTuple):
    """Which record stands at a position: its index, and the epoch it is shown in."""

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
    rows, last_epoch, epoch_seed = [], -1, 0
    for position in range(start, stop):
        epoch, place = divmod(position, num_records)
        if epoch != last_epoch:
            last_epoch = epoch
            epoch_seed = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
        index = index_shuffle(
            place, max_index=num_records - 1, seed=epoch_seed, rounds=ROUNDS
        )
        rows.append(Row(epoch, index))
    return rows


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
