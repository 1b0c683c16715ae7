# SPDX-License-Identifier: Apache-2.0
"""Text models without their vocabulary know the empty text only."""

import pytest

from ldm_jax.conditions.tokens import make_tokenizer
from ldm_jax.conditions.vocabulary import without_vocabulary
from tests.conditions.test_tokens import WORDS


def test_the_empty_text_is_that_of_the_vocabulary(tmp_path):
    """Golden: [CLS] [SEP] [PAD] ... of a vocabulary with its marks in their places."""
    rows = [f"w{i}" for i in range(30522)]
    for i, word in {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]"}.items():
        rows[i] = word
    rows[103:109] = [*WORDS[4:], "x"]
    (tmp_path / "vocab.txt").write_text("\n".join(rows))
    words = make_tokenizer("bert", length=6, vocab=str(tmp_path / "vocab.txt"))
    without = without_vocabulary("bert", 6)
    assert without.encode(["", ""]).tolist() == words.encode(["", ""]).tolist()
    assert without.vocab_size == words.vocab_size
    # <|startoftext|>, and <|endoftext|> which is also what pads.
    clip = without_vocabulary("clip", 4).encode([""])
    assert clip.tolist() == [[49406, 49407, 49407, 49407]]


def test_an_error_explains_how_to_get_a_vocabulary():
    with pytest.raises(ValueError, match=r"no vocab\.json and merges\.txt .*--vocab"):
        without_vocabulary("clip", 4).encode(["", "a cat"])
