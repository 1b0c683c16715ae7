# SPDX-License-Identifier: Apache-2.0
"""Makes tokenizers, which turn texts into token ids.

Tokenizers come from transformers; the byte-level default needs no file and no network.
If a vocabulary is missing or misnamed, transformers 5 returns a tokenizer of a few
entries that maps every word to "unknown". So each tokenizer is checked when it is made.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32

from ldm_jax.files.errors import MissingFile, UnreadableFile, reading
from ldm_jax.files.formats.structured import read_json
from ldm_jax.files.reading import read_text

# Ids of the BERT vocabulary that the published text models were trained with.
BERT_SIZE = 30522
CLIP_SIZE = 49408
# 256 bytes, 3 special ids, 125 sentinels.
BYTES_SIZE = 384
PROBE = "a photo of a cat"
# The published files have 1 MB at most.
MAX_FILE_BYTES = 2**24
# transformers warns on import that it has no PyTorch; tokenizers need none.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Turns texts into rows of token ids of equal length.

    Attributes:
      name: "bytes", "bert" or "clip".
      vocab_size: ids are in [0, vocab_size).
      length: M, ids per text; longer texts are cut, shorter ones padded.
      encode: (texts) -> int32 [B, length].
      num_tokens: (texts) -> tokens of each text before it is cut or padded.
    """

    name: str
    vocab_size: int
    length: int
    encode: Callable[[Sequence[str]], Int32[np.ndarray, "B M"]]
    num_tokens: Callable[[Sequence[str]], list[int]]


def make_tokenizer(
    name: str = "bytes",
    length: int = 77,
    vocab: str | None = None,
    merges: str | None = None,
) -> Tokenizer:
    """Makes a tokenizer by name.

    Args:
      name: "bytes" (UTF-8, ids of ByT5), "bert" (uncased word pieces, [CLS] ... [SEP]
        [PAD] ...) or "clip" (byte pairs).
      length: ids per text.
      vocab: local file: vocab.txt of BERT, vocab.json of CLIP.
      merges: local file: merges.txt of CLIP.

    Raises:
      ValueError: the name is unknown, a file is missing or is not needed, or the
        tokenizer made from it does not know a plain English phrase.
    """
    needs = {"bytes": (), "bert": ("vocab",), "clip": ("vocab", "merges")}
    if name not in needs:
        raise ValueError(
            f'unknown tokenizer "{name}"; one of: {", ".join(sorted(needs))}.'
        )
    files = {"vocab": vocab, "merges": merges}
    for field, path in files.items():
        if path is not None and field not in needs[name]:
            raise ValueError(f'tokenizer "{name}" takes no {field} file: got {path}.')
        if field in needs[name] and (path is None or not pathlib.Path(path).is_file()):
            raise MissingFile(
                f'tokenizer "{name}" needs {field}=, a local file: got {path}; copy it '
                'from the published model, or use the tokenizer "bytes".'
            )
    source = _open_tokenizer(name, {field: files[field] for field in needs[name]})
    size = SIZES[name]

    def encode(texts):
        ids = source(
            list(texts), padding="max_length", truncation=True, max_length=length
        )
        return np.asarray(ids["input_ids"], np.int32)

    def num_tokens(texts):
        return [len(ids) for ids in source(list(texts))["input_ids"]]

    return Tokenizer(name, size, length, encode, num_tokens)


def _open_tokenizer(name: str, files: Mapping[str, Any]) -> Any:
    """Makes a tokenizer of transformers from untrusted files.

    Raises:
      UnreadableFile: they are too large, damaged, or not the published ones.
    """
    if not files:
        return make_bytes()
    for path in files.values():
        read_text(path, MAX_FILE_BYTES)  # a regular file, of texts
    with reading(files["vocab"], rule="must be the vocabulary of a tokenizer"):
        source = MAKERS[name](**files)
        check_tokenizer(name, source, SIZES[name], files["vocab"])
    return source


def make_bytes() -> Any:
    """Makes the ByT5 tokenizer: pure rules, nothing to load."""
    from transformers import ByT5Tokenizer

    return ByT5Tokenizer()


def make_bert(vocab: str) -> Any:
    """Makes the uncased BERT tokenizer from its vocab.txt."""
    from transformers import BertTokenizer

    # `vocab_file=` of transformers 4 is ignored by 5.
    return BertTokenizer(vocab=str(vocab), do_lower_case=True)


def make_clip(vocab: str, merges: str) -> Any:
    """Makes the CLIP tokenizer from vocab.json and merges.txt."""
    from transformers import CLIPTokenizer

    read_json(vocab, MAX_FILE_BYTES)  # bounded in depth
    return CLIPTokenizer(vocab=str(vocab), merges=str(merges))


MAKERS = {"bert": make_bert, "clip": make_clip}
SIZES = {"bytes": BYTES_SIZE, "bert": BERT_SIZE, "clip": CLIP_SIZE}


def check_tokenizer(name: str, source, size: int, vocab: str) -> None:
    """Raises UnreadableFile for a tokenizer that lacks entries or knows no words."""
    # Sizes first: a tokenizer without its special tokens encodes nothing.
    if len(source) != size:
        raise UnreadableFile(
            f'tokenizer "{name}" must have {size} entries: got {len(source)} (from '
            f"{vocab}); give it the published vocabulary."
        )
    ids = source(PROBE, add_special_tokens=False)["input_ids"]
    if ids.count(source.unk_token_id) == len(ids):
        raise UnreadableFile(
            f'tokenizer "{name}" must know "{PROBE}": got ids {ids} (from {vocab}); '
            "give it the published vocabulary."
        )
