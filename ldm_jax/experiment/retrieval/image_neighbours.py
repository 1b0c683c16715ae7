# SPDX-License-Identifier: Apache-2.0
"""Finds the neighbours of each image of a set, which latents store for training."""

import dataclasses

import numpy as np
from tqdm import tqdm

from ldm_jax.data.embeddings import EmbeddingDatabase, read_database
from ldm_jax.data.neighbours import WithNeighbours
from ldm_jax.data.records import DamagedRecord, Source, read_each
from ldm_jax.experiment.retrieval.image_embedder import EmbedderSource, middle_square
from ldm_jax.tasks.neighbours import NeighbourSearch

# float16, in which latents store the embeddings, ends there.
LARGEST = 65504.0


@dataclasses.dataclass(frozen=True)
class NeighbourSource:
    """The source of the neighbours that latents store.

    Attributes:
      database: .npz file or folder of `ldm-jax database`.
      number: k, neighbours of each image.
      embedder: network that made the database; it is not needed for images that the
        database contains.
    """

    database: str
    number: int
    embedder: EmbedderSource = dataclasses.field(default_factory=EmbedderSource)

    @property
    def description(self) -> str:
        """Names the neighbours, for the plan of latents."""
        return f"{self.number} of {self.database}"

    def attach(self, source: Source, batch_size: int = 64) -> WithNeighbours:
        """Adds to each image of a set its neighbours; see `neighbours_of_images`.

        Raises:
          ValueError: the database is of another network, or has too few rows.
        """
        database = read_database(self.database)
        if np.abs(database.embedding).max() > LARGEST:
            raise ValueError(
                f"embeddings are stored as float16, at most {LARGEST:g}: "
                f"{self.database} has larger ones; divide them by a number."
            )
        rows = neighbours_of_images(
            source, database, self.number, self.embedder, batch_size
        )
        return WithNeighbours(source, rows, database.embedding)


def neighbours_of_images(
    source: Source,
    database: EmbeddingDatabase,
    number: int,
    embedder: EmbedderSource,
    batch_size: int = 64,
) -> np.ndarray:
    """Finds the rows nearest to each image, without the rows of the image itself.

    Args:
      source: N images.
      database: contains the same images, or others.
      number: k.
      embedder: network that embeds images which the database does not contain.
      batch_size: images embedded at once.

    Returns:
      int [N, k], the nearest first; zeros for images that cannot be read.

    Raises:
      ValueError: the database was made by another network or has too few rows, or it
        lacks images and there is no network to embed them.
    """
    contains = database.image_set.get("fingerprint") == source.fingerprint
    if contains:
        numbers, first = np.unique(database.img_id, return_index=True)
        queries = database.embedding[first].astype(np.float32)
        num_own = int(np.bincount(database.img_id).max())
    else:
        numbers, queries = _embed(source, database, embedder, batch_size)
        num_own = 0
    if number + num_own > len(database.embedding):
        own = f", and {num_own} of the image itself is left out" if num_own else ""
        raise ValueError(
            f"neighbours are rows of the database: got {number} of "
            f"{len(database.embedding)} rows{own}; ask for fewer."
        )
    rows = NeighbourSearch(database.embedding).nearest(queries, number + num_own).rows
    nearest = np.zeros((len(source), number), np.int64)
    for image, candidates in zip(numbers, rows, strict=True):
        others = candidates
        if contains:
            others = candidates[database.img_id[candidates] != image]
        nearest[image] = others[:number]
    return nearest


def _embed(
    source: Source, database: EmbeddingDatabase, given: EmbedderSource, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Embeds images that a database does not contain.

    Returns:
      (numbers of the images that can be read [Q], their embeddings [Q, d]).
    """
    embedder = given.open()
    check_encoder(database, embedder.width, embedder.fingerprint)
    numbers, parts = [], []
    for low in tqdm(range(0, len(source), batch_size), desc="embeddings"):
        batch = list(range(low, min(low + batch_size, len(source))))
        records = {
            number: middle_square(record["image"])[0]
            for number, record in zip(batch, read_each(source, batch), strict=True)
            if not isinstance(record, DamagedRecord)
        }
        if records:
            numbers += list(records)
            parts.append(embedder.embed_patches(list(records.values())))
    if not parts:
        raise ValueError("neighbours are of images: none of the set could be read.")
    return np.array(numbers), np.concatenate(parts)


def check_encoder(database: EmbeddingDatabase, width: int, fingerprint: str) -> None:
    """Raises ValueError unless the database was made by this network."""
    if database.width != width or database.clip not in ("", fingerprint):
        raise ValueError(
            f"a database must be of the CLIP model that embeds the query: it is of "
            f"{database.clip or 'an unnamed one'} with {database.width} numbers, the "
            f"query's is {fingerprint} with {width}; make a database with that model."
        )
