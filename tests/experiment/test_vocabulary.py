# SPDX-License-Identifier: Apache-2.0
"""Vocabulary files are found in a model's directory."""

from ldm_jax.experiment.vocabulary import files_of
from tests.conditions.test_tokens import write_vocab


def test_vocabulary_files_are_found_after_the_directory_was_moved(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    inside = write_vocab(tmp_path / "tokenizer" / "vocab.txt", 20)
    files = files_of(tmp_path, {"vocab": "tokenizer/vocab.txt", "merges": None})
    assert files == {"vocab": inside}
    assert files_of(tmp_path, {"vocab": inside, "merges": "no.txt"}) == files
