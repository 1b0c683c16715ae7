# SPDX-License-Identifier: Apache-2.0
"""Keeps the decoded records of a small set in memory, up to a bound."""

from collections.abc import Sequence

import numpy as np

from ldm_jax.data.records import Record, Source
from ldm_jax.data.transforms.buckets import image_sizes


class InMemory:
    """A source that keeps its decoded records in memory, as far as they fit.

    Records that come after the bound is reached are read from the source each time, so
    a large set costs the bound and no more.

    Attributes:
      fingerprint, num_classes, class_names, box_names, refused, short_sides: of the
        source.
    """

    def __init__(self, source: Source, cache_mib: int):
        self._source, self._left = source, cache_mib * 2**20
        self._kept: dict[int, Record] = {}
        self.fingerprint = source.fingerprint
        self.num_classes = getattr(source, "num_classes", None)
        self.class_names = getattr(source, "class_names", ())
        self.box_names = getattr(source, "box_names", ())
        self.refused = getattr(source, "refused", ())
        self.short_sides = getattr(source, "short_sides", ())

    def __len__(self) -> int:
        return len(self._source)

    def sizes(self) -> np.ndarray:
        """Returns heights and widths [N, 2] of the images."""
        return image_sizes(self._source)

    def __getitem__(self, index: int) -> Record:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Record]:
        missing = [index for index in indices if index not in self._kept]
        read = dict(zip(missing, self._source.__getitems__(missing), strict=True))
        for index, record in read.items():
            arrays = [v for v in record.values() if isinstance(v, np.ndarray)]
            size = sum(array.nbytes for array in arrays) + 1024  # the dict itself
            if size <= self._left:
                self._left -= size
                for array in arrays:  # it is shared from now on
                    array.flags.writeable = False
                self._kept[index] = record
        return [dict(read.get(i) or self._kept[i]) for i in indices]
