# SPDX-License-Identifier: Apache-2.0
"""Texts: token ids, encoded by a transformer that is trained, or pretrained."""

import dataclasses
import functools
import logging
import pathlib
from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int32

from ldm_jax.conditions.fields import (
    MAX_DEPTH,
    MAX_IDS,
    MAX_TOKENS,
    MAX_WIDTH,
    check_counts,
)
from ldm_jax.conditions.kinds.token_ids import TokenCondition, token_field
from ldm_jax.conditions.tokens import Tokenizer, make_tokenizer
from ldm_jax.conditions.user_inputs import as_list
from ldm_jax.conditions.vocabulary import EMPTY_TEXT, without_vocabulary
from ldm_jax.files.reading import read_lines
from ldm_jax.models.clip import ClipText
from ldm_jax.models.conditioners import TokenTransformer

log = logging.getLogger(__name__)

ENCODERS: dict[str, type[TokenTransformer] | type[ClipText]] = {
    "transformer": TokenTransformer,
    "clip": ClipText,
}
# Fields of one of the encoders that are handed on to it where they are given.
OF_THE_ENCODER = (
    *("vocab_size", "num_heads", "head_channels"),
    *("mlp_width", "activation", "pooled"),
)


@dataclasses.dataclass(frozen=True)
class Text(TokenCondition):
    """A text as tokens [B, M], encoded to a context [B, M, d]; null is the empty text.

    Attributes:
      width, depth: of the text encoder; 1280 and 32 in the published 1.45B model.
      encoder: "transformer", as the paper's, or "clip".
      tokenizer, length, vocab, merges: see `make_tokenizer`; without the files that
        "bert" and "clip" need, the model takes tokens, and no text but "".
      is_frozen: whether the encoder is never trained, and its parameters come in as
        frozen["conditioner"]; None: a "clip" one is.
      dtype: dtype of the encoder's arithmetic.
      vocab_size: ids are in [0, vocab_size); None takes the tokenizer's.
      num_heads, head_channels: of `TokenTransformer`; None takes its defaults.
      mlp_width, activation, pooled: of `ClipText`, likewise (and `num_heads`).
    """

    width: int = 512
    depth: int = 8
    encoder: str = "transformer"
    tokenizer: str = "bytes"
    length: int = 77
    vocab: str | None = None
    merges: str | None = None
    is_frozen: bool | None = None
    dtype: jnp.dtype = jnp.float32
    vocab_size: int | None = None
    num_heads: int | None = None
    head_channels: int | None = None
    mlp_width: int | None = None
    activation: str | None = None
    pooled: int | None = None

    kind: ClassVar = "text"
    fields: ClassVar = {
        "tokens": token_field(
            "prompt",
            "a text, or a .txt file with one per line",
            user_keyword="text",
            example="'a red flower'",
        )
    }
    record_fields: ClassVar = {
        "caption": "config.images.captions names the captions of a folder"
    }

    def __post_init__(self):
        widths = dict.fromkeys(("width", "head_channels", "mlp_width", "pooled"))
        check_counts(
            self,
            depth=MAX_DEPTH,
            length=MAX_TOKENS,
            vocab_size=MAX_IDS,
            num_heads=MAX_WIDTH,
            **dict.fromkeys(widths, MAX_WIDTH),
        )
        if self.encoder not in ENCODERS:
            raise ValueError(
                f'unknown text encoder "{self.encoder}"; one of: '
                f"{', '.join(sorted(ENCODERS))}."
            )
        known = ENCODERS[self.encoder].__dataclass_fields__
        unknown = [n for n in self._encoder_fields() if n not in known]
        if unknown:
            raise ValueError(
                f'the text encoder "{self.encoder}" has no {", ".join(unknown)}; leave '
                "it out, or choose another encoder."
            )
        assert self.words  # reads the vocabulary: a wrong file is found now
        if self.vocab is not None:
            self.check_vocabulary()

    def _encoder_fields(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in OF_THE_ENCODER}
        return {name: value for name, value in fields.items() if value is not None}

    @functools.cached_property
    def words(self) -> Tokenizer:
        """The tokenizer."""
        if self.tokenizer in EMPTY_TEXT and self.vocab is None and self.merges is None:
            return without_vocabulary(self.tokenizer, self.length)
        return make_tokenizer(self.tokenizer, self.length, self.vocab, self.merges)

    @property
    def num_ids(self) -> int:
        """The number of ids that the encoder knows."""
        return self.vocab_size or self.words.vocab_size

    @property
    def module(self) -> nn.Module:
        return ENCODERS[self.encoder](
            **{"vocab_size": self.num_ids, **self._encoder_fields()},
            width=self.width,
            depth=self.depth,
            length=self.length,
            dtype=self.dtype,
        )

    @property
    def reads_frozen(self) -> tuple[str, ...]:
        is_frozen = self.is_frozen
        if is_frozen is None:
            is_frozen = self.encoder == "clip"
        return ("conditioner",) if is_frozen else ()

    @functools.cached_property
    def null_tokens(self) -> Int32[np.ndarray, " M"]:
        return self.words.encode([""])[0]

    def check_vocabulary(self) -> None:
        """Raises ValueError if the tokenizer makes ids that the encoder lacks.

        A model that takes tokens only needs no tokenizer that fits.
        """
        if self.num_ids < self.words.vocab_size:
            raise ValueError(
                f'the tokenizer "{self.tokenizer}" makes ids in [0, '
                f"{self.words.vocab_size}): got a text encoder of vocab_size="
                f"{self.num_ids}; give it the tokenizer that it was trained with."
            )

    def prepare(self, record: dict[str, Any]) -> dict[str, Any]:
        """Adds "tokens" [M] int32, made of the caption."""
        record = super().prepare(record)
        self.check_vocabulary()
        return {**record, "tokens": self.words.encode([record["caption"]])[0]}

    def from_user(self, text: Any) -> dict[str, np.ndarray]:
        """Reads a text, a list of texts, or a path to a .txt file, one per line.

        A text that is cut to the length of the encoder is named in a warning.

        Returns:
          {"tokens": int32 [B, M]}.

        Raises:
          ValueError: there is no text, or a file is missing.
        """
        texts, where = as_list(text), "the arguments"
        if isinstance(text, pathlib.Path) or (
            isinstance(text, str) and text.endswith(".txt")
        ):
            texts, where = read_lines(text), text
        if not texts:
            raise ValueError(
                f'there must be a prompt: got none in {where}; write one per line ("" '
                "on the command line is the empty prompt)."
            )
        for one in texts:
            if not isinstance(one, str):
                raise ValueError(f"a prompt is a text: got {one!r} in {where}.")
        self.check_vocabulary()
        self.warn_of_long_texts(texts)
        return {"tokens": self.words.encode(texts)}

    def warn_of_long_texts(self, texts: Sequence[str]) -> None:
        """Warns of texts of more tokens than the encoder reads."""
        for text, count in zip(texts, self.words.num_tokens(texts), strict=True):
            if count > self.length:
                log.warning(
                    "a prompt is cut to the first %d of its %d tokens, which is all "
                    "that this model reads: %.80r",
                    self.length,
                    count,
                    text,
                )
