# SPDX-License-Identifier: Apache-2.0
"""The base class of text and layout: token ids, encoded by a transformer."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int32

from ldm_jax.conditions.base import Condition
from ldm_jax.conditions.fields import Field
from ldm_jax.types import Array, Batch, Conditioning


def token_field(flag: str, doc: str, user_keyword: str, example: str) -> Field:
    """Makes the field of token ids [B, length] in [0, num_ids)."""
    return Field(
        keyword="tokens",
        flag=flag,
        axes=("B", "length"),
        dtype="int32",
        limit="num_ids",
        doc=doc,
        user_keyword=user_keyword,
        example=example,
    )


@dataclasses.dataclass(frozen=True)
class TokenCondition(Condition):
    """A condition of token ids [B, M], encoded to a context [B, M, d]."""

    @property
    def null_tokens(self) -> Int32[np.ndarray, " M"]:
        """The tokens of the null condition."""
        raise NotImplementedError

    def encode_fields(
        self, apply: Callable[[Array], Array], batch: Batch, frozen: Mapping[str, Any]
    ) -> Conditioning:
        return Conditioning(context=apply(batch["tokens"]))

    def null_fields(self, batch: Batch) -> Batch:
        tokens = jnp.asarray(self.null_tokens)[None]
        return {"tokens": jnp.broadcast_to(tokens, batch["tokens"].shape)}
