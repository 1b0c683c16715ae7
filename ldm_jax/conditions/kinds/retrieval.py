# SPDX-License-Identifier: Apache-2.0
"""Retrieval: CLIP embeddings of a text or image and of its neighbours, as tokens."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from ldm_jax.conditions.base import Condition
from ldm_jax.conditions.fields import MAX_TOKENS, MAX_WIDTH, Field, check_counts
from ldm_jax.files.arrays import parse_npy
from ldm_jax.files.reading import read_bytes
from ldm_jax.types import Array, Batch, Conditioning

MAX_BYTES = 2**30


@dataclasses.dataclass(frozen=True)
class Retrieval(Condition):
    """Embeddings [B, M, d] as the context; the null condition is zeros.

    They have no order: a permutation of the tokens gives the same image, and one that
    is there twice counts double. Their number may differ between samplings.

    Attributes:
      width: d, of the embeddings: 768 for CLIP ViT-L/14.
      length: M in plans and exports: a query and its neighbours.

    Source: Blattmann et al. 2022 (retrieval-augmented diffusion models).
    """

    width: int = 768
    length: int = 11

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
        "embeddings": "they are the neighbours of an image in a database"
    }

    def __post_init__(self):
        check_counts(self, width=MAX_WIDTH, length=MAX_TOKENS)

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
