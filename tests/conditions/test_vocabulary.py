# SPDX-License-Identifier: Apache-2.0
"""Vocabularies: taken from a model's directory, or not there."""

import pytest

from ldm_jax.conditions.tokens import make_tokenizer
from ldm_jax.conditions.vocabulary import files_of, without_vocabulary
from tests.conditions.test_tokens import WORDS, write_vocab


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


def test_a_text_without_a_vocabulary_says_where_to_get_one():
    with pytest.raises(ValueError, match=r"no vocab\.json and merges\.txt .*--vocab"):
        without_vocabulary("clip", 4).encode(["", "a cat"])


def test_files_are_found_in_the_directory_wherever_it_lies(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    inside = write_vocab(tmp_path / "tokenizer" / "vocab.txt", 20)
    found = files_of(tmp_path, {"vocab": "tokenizer/vocab.txt", "merges": None})
    assert found == {"vocab": inside}
    assert files_of(tmp_path, {"vocab": inside, "merges": "no.txt"}) == found
