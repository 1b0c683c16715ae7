# SPDX-License-Identifier: Apache-2.0
"""Words as tokens: golden ids, files that do not fit."""

import pytest

from ldm_jax.conditions.tokens import make_tokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "cat"]


def test_bytes_are_the_utf8_bytes_plus_three():
    """Oracle: ByT5 adds 3 special ids before the 256 bytes; 1 ends a text."""
    words = make_tokenizer("bytes", length=8)
    ids = words.encode(["é a", "", "longer than eight"])
    assert ids.tolist() == [
        [198, 172, 35, 100, 1, 0, 0, 0],
        [1, 0, 0, 0, 0, 0, 0, 0],
        [*(ord(c) + 3 for c in "longer "), 1],
    ]
    assert ids.dtype == "int32" and words.vocab_size == 384


def write_vocab(path, size):
    path.write_text("\n".join(WORDS + [f"w{i}" for i in range(size - len(WORDS))]))
    return str(path)


def test_bert_pads_between_its_marks_up_to_the_length(tmp_path):
    """Golden: [CLS] words [SEP] [PAD]..., longer texts cut before [SEP]."""
    vocab = write_vocab(tmp_path / "vocab.txt", 30522)
    words = make_tokenizer("bert", length=6, vocab=vocab)
    ids = words.encode(["A photo", "a photo of a cat", ""])
    assert ids.tolist() == [[2, 5, 6, 3, 0, 0], [2, 5, 6, 7, 5, 3], [2, 3, 0, 0, 0, 0]]


def test_vocabulary_of_another_size_or_tongue_is_refused(tmp_path):
    """A short vocabulary is what transformers silently falls back to."""
    short = write_vocab(tmp_path / "short.txt", 20)
    with pytest.raises(ValueError, match="must have 30522 entries"):
        make_tokenizer("bert", vocab=short)
    foreign = tmp_path / "foreign.txt"
    foreign.write_text("\n".join(WORDS[:5] + [f"w{i}" for i in range(30517)]))
    with pytest.raises(ValueError, match="must know"):
        make_tokenizer("bert", vocab=str(foreign))


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        ("bert", {}, "needs vocab="),
        ("bert", {"vocab": "no/such.txt"}, "needs vocab="),
        ("clip", {"vocab": __file__}, "needs merges="),
        ("bytes", {"vocab": __file__}, "takes no vocab file"),
        ("t5", {}, "one of: bert, bytes, clip"),
    ],
)
def test_missing_and_needless_files_are_refused(name, files, message):
    with pytest.raises(ValueError, match=message):
        make_tokenizer(name, **files)


def test_clip_tokenizer_is_refused_when_it_is_not_the_published_one(tmp_path):
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(ValueError, match="must have 49408 entries"):
        make_tokenizer(
            "clip",
            vocab=str(tmp_path / "vocab.json"),
            merges=str(tmp_path / "merges.txt"),
        )
