# SPDX-License-Identifier: Apache-2.0
"""Retrieval: CLIP embeddings of a text or image and of its neighbours, as tokens."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from ldm_jax.conditions.base import Condition
from ldm_jax.conditions.fields import MAX_TOKENS, MAX_WIDTH, Field, check_counts
from ldm_jax.files.formats.arrays import parse_npy
from ldm_jax.files.reading import read_bytes
from ldm_jax.types import Array, Batch, Conditioning

MAX_BYTES = 2**30


@dataclasses.dataclass(frozen=True)
class Retrieval(Condition):
    """Embeddings [B, M, d] as the context; the null condition is zeros.

    They have no order: a permutation of the tokens gives the same image, and a repeated
    one counts twice. Their number may differ between calls.

    In training, the tokens are the first M neighbours of an image that its latent
    stores, without the image itself.

    Attributes:
      width: d, of the embeddings: 768 for CLIP ViT-L/14.
      length: M in training, plans and exports.
      has_query: whether the first token of a sample is its query's embedding, and the
        other M - 1 are neighbours.
      unit_length: whether tokens are divided by their length, as for the published 768
        model; the models of the paper read the rows of the database as they are.

    Source: Blattmann et al. 2022 (retrieval-augmented diffusion models).
    """

    width: int = 768
    length: int = 11
    has_query: bool = True
    unit_length: bool = True

    kind: ClassVar = "retrieval"
    fields: ClassVar = {
        "embeddings": Field(
            keyword="embeddings",
            flag="embeddings",
            axes=("B", "length", "width"),
            dtype="float32",
            doc="CLIP embeddings, an .npy file of [N, M, d]; or see --clip-model",
            example="embeddings.npy",
        )
    }
    record_fields: ClassVar = {
        "embeddings": "they are the neighbours of an image in a database "
        "(ldm-jax latents --database)"
    }

    def __post_init__(self):
        check_counts(self, width=MAX_WIDTH, length=MAX_TOKENS)

    def prepare(self, record: dict[str, Any]) -> dict[str, Any]:
        """Takes the first `length` neighbours that a latent stores."""
        record = super().prepare(record)
        rows = np.asarray(record["embeddings"], np.float32)
        shape = rows.shape
        if len(shape) != 2 or shape[1] != self.width or shape[0] < self.length:
            raise ValueError(
                f"latents must store {self.length} neighbours of {self.width} numbers, "
                f"config.condition.length and width: got {shape}; write the latents "
                "with more (--neighbours), or of the database that the condition is "
                "for."
            )
        return {**record, "embeddings": self.as_tokens(rows[: self.length])}

    def as_tokens(
        self, rows: Float32[np.ndarray, "*n d"]
    ) -> Float32[np.ndarray, "*n d"]:
        """Makes tokens of embeddings: of unit length, where the model takes such.

        Raises:
          ValueError: an embedding is 0, which has no direction.
        """
        if not self.unit_length:
            return rows
        length = np.linalg.norm(rows, axis=-1, keepdims=True)
        if not length.all():
            raise ValueError(
                "an embedding of zeros cannot be scaled to unit length; leave such "
                "rows out of the database."
            )
        return rows / length

    def encode_fields(
        self, apply: Callable[[Array], Array], batch: Batch, frozen: Mapping[str, Any]
    ) -> Conditioning:
        return Conditioning(context=batch["embeddings"])

    def null_fields(self, batch: Batch) -> Batch:
        return {"embeddings": jnp.zeros_like(batch["embeddings"])}

    def from_user(self, embeddings: Any) -> dict[str, np.ndarray]:
        """Reads an .npy file, or takes an array.

        Returns:
          {"embeddings": float32 [B, M, d]}.

        Raises:
          ValueError: another shape, or a number that is not finite.
        """
        where = "the arguments"
        if isinstance(embeddings, (str, pathlib.Path)):
            where = str(embeddings)
            embeddings = parse_npy(read_bytes(where, MAX_BYTES), where)
        array = np.asarray(embeddings)
        if array.ndim != 3 or array.shape[2] != self.width or 0 in array.shape:
            raise ValueError(
                f"embeddings must be [N, M, {self.width}], M tokens for each sample: "
                f"got {array.shape} in {where}."
            )
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise ValueError(
                f"embeddings must be finite numbers: got others in {where}."
            )
        return {"embeddings": array.astype(np.float32)}
