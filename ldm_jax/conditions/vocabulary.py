# SPDX-License-Identifier: Apache-2.0
"""Text models without a vocabulary: published checkpoints do not contain its files.

Such a model takes tokens; the only text it can encode is the empty one, for guidance.
"""

import numpy as np

from ldm_jax.conditions.tokens import SIZES, Tokenizer

# Name of a file in tokenizer/ of a model directory, by tokenizer and field.
FILES = {
    "bert": {"vocab": "vocab.txt"},
    "clip": {"vocab": "vocab.json", "merges": "merges.txt"},
}
# (first, last, padding) id of the published vocabularies.
EMPTY_TEXT = {"bert": (101, 102, 0), "clip": (49406, 49407, 49407)}


def without_vocabulary(name: str, length: int) -> Tokenizer:
    """Makes the tokenizer of a model that was imported without its vocabulary.

    Args:
      name: "bert" or "clip".
      length: ids per text.

    Returns:
      A Tokenizer that encodes the empty text and raises ValueError for any other.
    """
    first, last, padding = EMPTY_TEXT[name]
    empty = [first, last] + [padding] * (length - 2)

    def encode(texts):
        given = [text for text in texts if text]
        if given:
            files = " and ".join(FILES[name].values())
            raise ValueError(
                f'a text needs the vocabulary of the model: got "{given[0]}" and no '
                f'{files} of the tokenizer "{name}"; import again with --vocab, set '
                "condition.vocab, or give tokens=."
            )
        return np.tile(np.asarray(empty, np.int32), (len(texts), 1))

    def num_tokens(texts):
        return [2 for _ in texts]  # what begins and ends the empty text

    return Tokenizer(name, SIZES[name], length, encode, num_tokens)
