# SPDX-License-Identifier: Apache-2.0
"""Joins several sets: mixed by weight, or one set for each shape of latents.

Both are sources that define their order by `rows`. It is a pure function of the seed
and the step, like the order of a single set, so a checkpoint stores nothing more.
"""

import bisect
import itertools
from collections.abc import Sequence

from ldm_jax.data.order import Row, shuffled_rows_of_part, turn
from ldm_jax.data.records import Record, Source, fingerprint

# Turns in which the shares of the sets are met exactly.
BLOCK = 1000


class _Parts:
    """Sets one after the other, each in its own order.

    Attributes:
      spans: indices of each set.
      quotas: turns of each set in BLOCK.
      fingerprint: digest of the sets' and the quotas.
      num_classes, class_names, box_names: of the sets, where they agree.
    """

    def __init__(self, sources: Sequence[Source], weights: Sequence[float]):
        if not sources or not all(map(len, sources)):
            raise ValueError(
                f"every set of a mixture must hold a record: got sets of "
                f"{[len(source) for source in sources]} records; leave empty ones out."
            )
        if len(weights) != len(sources) or not all(weight > 0 for weight in weights):
            raise ValueError(
                f"weights must be one positive number for each set: got "
                f"{tuple(weights)} for {len(sources)} sets."
            )
        self._sources = tuple(sources)
        self._ends = list(itertools.accumulate(map(len, sources)))
        starts = [0, *self._ends]
        self.spans = [range(low, high) for low, high in itertools.pairwise(starts)]
        self.quotas = quotas(weights)
        self.fingerprint = fingerprint(
            [type(self).__name__, [s.fingerprint for s in sources], self.quotas]
        )
        self.num_classes = self._common("num_classes", None)
        self.class_names = self._common("class_names", ())
        self.box_names = self._common("box_names", ())

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Record:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Record]:
        by_part: dict[int, list[int]] = {}
        for place, index in enumerate(indices):
            by_part.setdefault(self._part(index), []).append(place)
        records: list[Record] = [{}] * len(indices)
        for part, places in by_part.items():
            start = self.spans[part].start
            drawn = self._sources[part].__getitems__(
                [indices[place] - start for place in places]
            )
            for place, record in zip(places, drawn, strict=True):
                records[place] = record
        return records

    def neighbour(self, index: int) -> int:
        """Returns the record that replaces a damaged one, from the same set."""
        span = self.spans[self._part(index)]
        return span[(index - span.start + 1) % len(span)]

    def _part(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        return bisect.bisect_right(self._ends, index)

    def _common(self, name: str, otherwise):
        values = {getattr(source, name, otherwise) for source in self._sources}
        return values.pop() if len(values) == 1 else otherwise

    def _rows_of(self, seed: int, part: int, start: int, stop: int) -> list[Row]:
        span = self.spans[part]
        rows = shuffled_rows_of_part(seed, part, len(span), start, stop)
        return [Row(epoch, span.start + index) for epoch, index in rows]


class Mixture(_Parts):
    """Sets whose records are mixed by weight, within every batch.

    Of each BLOCK records, every set gives its share exactly, rounded to one in BLOCK
    and at least one; a set that is used up starts again, in another order.
    """

    def rows(
        self, seed: int, batch_size: int, step: int, low: int, high: int
    ) -> list[Row]:
        """Returns the rows at places low to high - 1 of the batch of a step."""
        rows = []
        for position in range(step * batch_size + low, step * batch_size + high):
            part, count = turn(seed, self.quotas, position)
            rows += self._rows_of(seed, part, count, count + 1)
        return rows


class Buckets(_Parts):
    """Sets of different shapes; each batch is from one, in proportion to their sizes.

    Of each BLOCK batches, every set gives its share, rounded to one in BLOCK and at
    least one.
    """

    def __init__(self, sources: Sequence[Source]):
        super().__init__(sources, [max(1, len(source)) for source in sources])

    def rows(
        self, seed: int, batch_size: int, step: int, low: int, high: int
    ) -> list[Row]:
        """Returns the rows at places low to high - 1 of the batch of a step."""
        part, count = turn(seed, self.quotas, step)
        start = count * batch_size
        return self._rows_of(seed, part, start + low, start + high)


def quotas(weights: Sequence[float]) -> list[int]:
    """Divides BLOCK turns in proportion to weights: largest remainders, at least one.

    Args:
      weights: positive.

    Returns:
      Whole numbers whose sum is BLOCK.

    Raises:
      ValueError: more weights than turns.
    """
    if len(weights) > BLOCK:
        raise ValueError(f"at most {BLOCK} sets can be mixed: got {len(weights)}.")
    exact = [BLOCK * weight / sum(weights) for weight in weights]
    counts = [max(1, int(share)) for share in exact]
    while sum(counts) != BLOCK:
        step = 1 if sum(counts) < BLOCK else -1
        able = [k for k in range(len(counts)) if counts[k] + step >= 1]
        counts[max(able, key=lambda k: step * (exact[k] - counts[k]))] += step
    return counts
