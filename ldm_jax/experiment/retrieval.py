# SPDX-License-Identifier: Apache-2.0
"""Makes the context of retrieval models: a query, and its neighbours in a database."""

import dataclasses
from typing import Any

import numpy as np

from ldm_jax.conditions.user_inputs import pictures
from ldm_jax.data.embeddings import EmbeddingDatabase, read_database
from ldm_jax.experiment.clip_folder import ClipFolder
from ldm_jax.files.pictures import read_image
from ldm_jax.files.reading import read_lines
from ldm_jax.tasks.neighbours import Neighbours, NeighbourSearch


@dataclasses.dataclass(frozen=True)
class RetrievalQuery:
    """What a retrieval model shall show.

    Attributes:
      clip: folder of the CLIP model; the published models need ViT-L/14.
      text: a text, or a .txt file with one per line; or
      images: an image, or a folder of them.
      database: .npz file or folder; "" takes the query alone.
      neighbours: k, tokens beside the query's; 0 without a database.

    Raises:
      ValueError: both text and images or neither; neighbours without a database.
    """

    clip: str
    text: str | None = None
    images: str | None = None
    database: str = ""
    neighbours: int = 0

    def __post_init__(self):
        if (self.text is None) == (self.images is None):
            raise ValueError(
                "a retrieval model is asked with a text or with images: got "
                f"{'neither' if self.text is None else 'both'}; give --prompt or "
                "--query."
            )
        if bool(self.database) != (self.neighbours > 0):
            raise ValueError(
                f"neighbours are found in a database: got {self.neighbours} and "
                f"{self.database or 'no database'}; give --database, and --neighbours "
                "from 1 on."
            )

    def open(self, width: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Embeds the queries and finds their neighbours.

        Args:
          width: d of the embeddings that the model reads.

        Returns:
          [B, 1 + k, d] of unit length: the query, then its neighbours from the nearest;
          and for each query its neighbours as JSON.

        Raises:
          ValueError: the CLIP model or the database is another than the model's, or has
            fewer rows than neighbours.
        """
        clip = ClipFolder(self.clip)
        if clip.width != width:
            raise ValueError(
                f"the model reads embeddings of {width} numbers: {self.clip} makes "
                f"{clip.width}; take the CLIP model that it was trained with."
            )
        database = read_database(self.database) if self.database else None
        if database is not None:
            self._check(database, clip)
        query = self._embed(clip)
        if database is None:
            return query[:, None], [{} for _ in query]
        found = NeighbourSearch(database.embedding).nearest(query, self.neighbours)
        rows = database.embedding[found.rows].astype(np.float32)
        rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
        notes = describe_neighbours(database, found)
        return np.concatenate([query[:, None], rows], axis=1), notes

    def _check(self, database: EmbeddingDatabase, clip: ClipFolder) -> None:
        if database.embedding.shape[1] != clip.width or database.clip not in (
            "",
            clip.fingerprint,
        ):
            raise ValueError(
                f"a database must be of the CLIP model that embeds the query: "
                f"{self.database} is of {database.clip or 'an unnamed one'} with "
                f"{database.embedding.shape[1]} numbers, {self.clip} is "
                f"{clip.fingerprint} with {clip.width}."
            )

    def _embed(self, clip: ClipFolder) -> np.ndarray:
        if self.images is not None:
            images = [read_image(path) for path in pictures(self.images)]
            return clip.embed_images(images)
        text = str(self.text)
        texts = read_lines(text) if text.endswith(".txt") else [text]
        return clip.embed_texts(texts)

    def to_dict(self) -> dict[str, Any]:
        """Returns all settings by name."""
        return dataclasses.asdict(self)


def describe_neighbours(
    database: EmbeddingDatabase, found: Neighbours
) -> list[dict[str, Any]]:
    """Describes the neighbours of each query: image, patch and cosine."""
    return [
        {
            "img_id": database.img_id[rows].tolist(),
            "patch_coords": database.patch_coords[rows].tolist(),
            "similarity": similarity.tolist(),
        }
        for rows, similarity in zip(found.rows, found.similarity, strict=True)
    ]
