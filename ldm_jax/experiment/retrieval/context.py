# SPDX-License-Identifier: Apache-2.0
"""Makes the context of retrieval models: a query, and its neighbours in a database."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from ldm_jax.conditions.kinds.retrieval import Retrieval
from ldm_jax.conditions.user_inputs import pictures
from ldm_jax.data.embeddings import EmbeddingDatabase, read_database
from ldm_jax.data.images.image_sets import open_images
from ldm_jax.data.records import read_whole
from ldm_jax.data.transforms.pixels import resize
from ldm_jax.experiment.retrieval.image_embedder import EmbedderSource
from ldm_jax.experiment.retrieval.image_neighbours import check_encoder
from ldm_jax.files.formats.pictures import read_image
from ldm_jax.files.reading import read_lines
from ldm_jax.tasks.neighbours import Neighbours, NeighbourSearch


class Retrieved(NamedTuple):
    """The context of samples, and what it was made of.

    Attributes:
      tokens: [B, M, d] float32.
      notes: the neighbours of each query as JSON, {} without a database.
      images: the neighbours of each query, uint8 [k, S, S, 3], for sheets; None if the
        images of the database are not available.
    """

    tokens: np.ndarray
    notes: list[dict[str, Any]]
    images: list[np.ndarray] | None = None


# Side of the neighbours in sheets.
SIDE = 128


@dataclasses.dataclass(frozen=True)
class RetrievalQuery:
    """The query of a retrieval model, and the database of its neighbours.

    Attributes:
      embedder: network that embeds the query; the published models need CLIP ViT-L/14.
      text: a text, or a .txt file with one per line.
      images: an image or a folder of images, instead of `text`. With neither, rows of
        the database are drawn as queries, as in unconditional sampling.
      database: .npz file or folder; "" takes the query alone.
      neighbours: k, tokens besides the query's; 0 takes as many as in training.

    Raises:
      ValueError: text and images, or no query at all; neighbours without a database.
    """

    embedder: EmbedderSource
    text: str | None = None
    images: str | None = None
    database: str = ""
    neighbours: int = 0

    def __post_init__(self):
        given = [x for x in (self.text, self.images) if x is not None]
        if len(given) > 1 or not (given or self.database):
            raise ValueError(
                "the query of a retrieval model is a text or images: got "
                f"{'both' if given else 'neither'}; give --prompt or --query, or "
                "--database alone for queries drawn from it."
            )
        if self.neighbours and not self.database:
            raise ValueError(
                f"neighbours are found in a database: got {self.neighbours} and no "
                "database; give --database."
            )

    def open(self, condition: Retrieval, num: int = 1, seed: int = 0) -> Retrieved:
        """Embeds the queries and finds their neighbours.

        Args:
          condition: of the model.
          num: number of queries to draw from the database if there is neither a text
            nor images.
          seed: of these draws.

        Returns:
          Tokens [B, M, d]: the query, if the model reads it, then its neighbours, the
          nearest first.

        Raises:
          ValueError: the network or the database is not that of the model, or the
            database has fewer rows than neighbours are needed.
        """
        database = read_database(self.database) if self.database else None
        query = self._query(condition, database, num, seed)
        tokens = [query[:, None]] if condition.has_query else []
        notes: list[dict[str, Any]] = [{} for _ in query]
        images = None
        if database is not None:
            number = self.neighbours or condition.length - condition.has_query
            nearest = NeighbourSearch(database.embedding).nearest(query, number)
            tokens.append(database.embedding[nearest.rows].astype(np.float32))
            notes = describe_neighbours(database, nearest)
            images = neighbour_images(database, nearest.rows)
        if not tokens:
            raise ValueError(
                "this model reads neighbours, and not the query: got no database; give "
                "--database."
            )
        joined = np.concatenate(tokens, axis=1).astype(np.float32)
        return Retrieved(condition.as_tokens(joined), notes, images)

    def _query(
        self,
        condition: Retrieval,
        database: EmbeddingDatabase | None,
        num: int,
        seed: int,
    ) -> np.ndarray:
        """Embeds the text or the images, or draws rows of the database: [B, d]."""
        if self.text is None and self.images is None:
            assert database is not None  # else refused by __post_init__
            _check_width(condition, database.width, self.database)
            order = np.random.default_rng(seed).permutation(len(database.embedding))
            return database.embedding[np.resize(order, num)].astype(np.float32)
        embedder = self.embedder.open()
        name = self.embedder.clip or self.embedder.feature_network
        _check_width(condition, embedder.width, name)
        if database is not None:
            check_encoder(database, embedder.width, embedder.fingerprint)
        if self.images is not None:
            return embedder.embed_images(
                [read_image(path) for path in pictures(self.images)]
            )
        embed_texts = getattr(embedder, "embed_texts", None)
        if embed_texts is None:
            raise ValueError(
                f"texts are embedded by CLIP: got the feature network {name}; ask with "
                "images (--query), or give --clip-model."
            )
        text = str(self.text)
        texts = read_lines(text) if text.endswith(".txt") else [text]
        return embed_texts(texts)

    def to_dict(self) -> dict[str, Any]:
        """Returns all settings by name."""
        fields = dataclasses.asdict(self)
        return {**fields.pop("embedder"), **fields}


def _check_width(condition: Retrieval, width: int, name: str) -> None:
    """Raises ValueError unless embeddings have the width that the model reads."""
    if width != condition.width:
        raise ValueError(
            f"the model reads embeddings of {condition.width} numbers: {name} makes "
            f"{width}; take the CLIP model that it was trained with."
        )


def describe_neighbours(
    database: EmbeddingDatabase, nearest: Neighbours
) -> list[dict[str, Any]]:
    """Describes the neighbours of each query: image, patch and cosine."""
    return [
        {
            "img_id": database.img_id[rows].tolist(),
            "patch_coords": database.patch_coords[rows].tolist(),
            "similarity": similarity.tolist(),
        }
        for rows, similarity in zip(nearest.rows, nearest.similarity, strict=True)
    ]


def neighbour_images(
    database: EmbeddingDatabase, rows: np.ndarray, limit: int = 10
) -> list[np.ndarray] | None:
    """Reads the patches of the first queries' neighbours, for a sheet.

    Args:
      database: if `ldm-jax database` made it, it describes its image set.
      rows: int [Q, k].
      limit: largest number of queries.

    Returns:
      For each query uint8 [k, SIDE, SIDE, 3]; None if the image set is not described,
      is missing or has changed.
    """
    known = database.image_set
    fingerprint = known.pop("fingerprint", "")
    try:
        source = open_images(**known)
    except (TypeError, ValueError, OSError):
        return None
    if source.fingerprint != fingerprint:
        return None

    def patch(row: int) -> np.ndarray:
        x0, y0, x1, y1 = (int(x) for x in database.patch_coords[row])
        ((_, record),) = read_whole(source, [database.img_id[row]])
        image = record["image"]
        return resize(image[y0:y1, x0:x1], (SIDE, SIDE), "bicubic")

    return [np.stack([patch(row) for row in line]) for line in rows[:limit]]
