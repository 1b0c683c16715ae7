# SPDX-License-Identifier: Apache-2.0
"""Vocabulary files of a text model: those in its directory, or none at all.

Published checkpoints come without the files that their tokenizer needs. Such a model
is told tokens; of texts it knows the empty one, which guidance asks for.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from ldm_jax.tasks.tokens import BERT_SIZE, CLIP_SIZE, Tokenizer

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

    return Tokenizer(name, SIZES[name], length, encode)


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
