# SPDX-License-Identifier: Apache-2.0
"""Vocabulary files of a text model: those in its directory, or none at all.

A model directory has copies in tokenizer/, so that it can be moved. Published
checkpoints come without the files that their tokenizer needs. Such a model is told
tokens; of texts it knows the empty one, which guidance asks for.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from ldm_jax.conditions.tokens import BERT_SIZE, CLIP_SIZE, Tokenizer
from ldm_jax.files.writing import write_bytes

# Name of a file in tokenizer/ of a model directory, by tokenizer and field.
FILES = {
    "bert": {"vocab": "vocab.txt"},
    "clip": {"vocab": "vocab.json", "merges": "merges.txt"},
}
# (first, last, padding) id of the published vocabularies.
EMPTY_TEXT = {"bert": (101, 102, 0), "clip": (49406, 49407, 49407)}
SIZES = {"bert": BERT_SIZE, "clip": CLIP_SIZE}


def without_vocabulary(name: str, length: int) -> Tokenizer:
    """Makes the tokenizer of a model whose vocabulary is not there.

    Args:
      name: "bert" or "clip".
      length: ids per text.

    Returns:
      A Tokenizer that encodes the empty text and raises ValueError for any other.
    """
    first, last, padding = EMPTY_TEXT[name]
    empty = [first, last] + [padding] * (length - 2)

    def encode(texts):
        said = [text for text in texts if text]
        if said:
            files = " and ".join(FILES[name].values())
            raise ValueError(
                f'a text needs the vocabulary of the model: got "{said[0]}" and no '
                f'{files} of the tokenizer "{name}"; import again with --vocab, set '
                "condition.vocab, or give tokens=."
            )
        return np.tile(np.asarray(empty, np.int32), (len(texts), 1))

    def num_tokens(texts):
        return [2 for _ in texts]  # what begins and ends the empty text

    return Tokenizer(name, SIZES[name], length, encode, num_tokens)


def files_of(directory, condition: Mapping[str, Any]) -> dict[str, str]:
    """Finds the vocabulary files that a model directory brings along.

    Args:
      directory: the model's.
      condition: its section `condition`, whose `vocab` and `merges` may be relative to
        the directory.

    Returns:
      {field: path that can be opened from anywhere}, of those that are there.
    """
    said = {name: condition.get(name) for name in ("vocab", "merges")}
    paths = {name: epath.Path(directory) / said[name] for name in said if said[name]}
    return {name: str(path) for name, path in paths.items() if path.exists()}


def text_section(condition: Mapping[str, Any]):
    """Finds what a condition says of texts: the section itself, or a part of a hybrid.

    Returns:
      The section, not a copy; None where no text is told.
    """
    for section in (condition, *condition.get("parts", {}).values()):
        if section.get("kind") == "text":
            return section
    return None


def by_part(condition: Mapping[str, Any], params):
    """Puts a text encoder's parameters where the condition's belong: see `Hybrid`."""
    if condition["kind"] == "text":
        return params
    parts = condition["parts"].items()
    return {name: params for name, part in parts if part["kind"] == "text"}


def places_of(section: Mapping[str, Any]) -> dict[str, str]:
    """Says where a model directory keeps the files that a text section names.

    Returns:
      {field: path relative to the directory}.
    """
    names = FILES.get(section.get("tokenizer", ""), {})
    return {field: f"tokenizer/{names[field]}" for field in names if section.get(field)}


def copy_files(directory, section: Mapping[str, Any]) -> None:
    """Copies the files that a text section names to `places_of` of a model directory.

    Raises:
      ValueError: a file is missing, or the directory holds another vocabulary.
    """
    for field, place in places_of(section).items():
        source, copy = epath.Path(section[field]), epath.Path(directory) / place
        if not source.exists():
            raise ValueError(f"condition.{field} must be a file: got {source}.")
        content = source.read_bytes()
        if not copy.exists():
            write_bytes(copy, content)
        elif copy.read_bytes() != content:
            raise ValueError(
                f"a model keeps the vocabulary that it began with: {source} differs "
                f"from {copy}; name the same file, or another directory."
            )
