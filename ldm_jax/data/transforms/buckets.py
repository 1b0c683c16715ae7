# SPDX-License-Identifier: Apache-2.0
"""Buckets: image sizes of about equal area, chosen by an image's aspect ratio."""

from collections.abc import Sequence

import numpy as np

from ldm_jax.data.records import Record, Source, fingerprint, read_whole


def parse_buckets(text: str) -> tuple[tuple[int, int], ...]:
    """Reads "256x256,192x320" as heights and widths.

    Raises:
      ValueError: not of that form, or a size twice.
    """
    try:
        sizes = tuple(
            (int(height), int(width))
            for height, width in (part.strip().split("x") for part in text.split(","))
        )
    except ValueError as error:
        raise ValueError(
            f'buckets must be sizes like "256x256,192x320": got "{text}".'
        ) from error
    if len(set(sizes)) < len(sizes) or min(map(min, sizes)) < 1:
        raise ValueError(f'buckets must be different positive sizes: got "{text}".')
    return sizes


def bucket_name(size: tuple[int, int]) -> str:
    """Returns the name of a bucket's directory: "192x320"."""
    return f"{size[0]}x{size[1]}"


def assign(sizes: np.ndarray, buckets: Sequence[tuple[int, int]]) -> np.ndarray:
    """Finds the bucket whose aspect ratio is nearest to each image's.

    The distance is that of logarithms: 2:1 is as far from square as 1:2. Of equal ones
    the first is taken.

    Args:
      sizes: [N, 2] heights and widths.
      buckets: heights and widths.

    Returns:
      int [N] in [0, len(buckets)).
    """
    ratios = np.log(sizes[:, 0] / sizes[:, 1])
    expected = np.log([height / width for height, width in buckets])
    return abs(ratios[:, None] - expected[None, :]).argmin(axis=1)


def image_sizes(source: Source) -> np.ndarray:
    """Returns heights and widths [N, 2] of all images of a set.

    A source that has `sizes()` knows them by the headers; of others each image is
    decoded, and a damaged one counts as the next.
    """
    sizes = getattr(source, "sizes", None)
    if sizes is not None:
        return sizes()
    every = range(len(source))
    shapes = (read_whole(source, [i])[0][1]["image"].shape[:2] for i in every)
    return np.array(list(shapes)).reshape(-1, 2)


class Subset:
    """Some records of a set.

    Attributes:
      fingerprint: digest of the set's and the indices.
      num_classes, class_names, box_names: of the set.
    """

    def __init__(self, source: Source, indices: Sequence[int] | np.ndarray):
        self._source = source
        self._indices = np.asarray(indices, np.int64)
        self.fingerprint = fingerprint([source.fingerprint, self._indices.tolist()])
        self.num_classes = getattr(source, "num_classes", None)
        self.class_names = getattr(source, "class_names", ())
        self.box_names = getattr(source, "box_names", ())

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Record:
        return self._source[int(self._indices[index])]

    def __getitems__(self, indices: Sequence[int]) -> list[Record]:
        return self._source.__getitems__(self._indices[list(indices)].tolist())
