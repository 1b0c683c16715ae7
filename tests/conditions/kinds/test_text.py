# SPDX-License-Identifier: Apache-2.0
"""Texts: the empty one, captions, prompts and frozen encoders."""

import jax
import numpy as np
import pytest

from ldm_jax.conditions.registry import make_condition
from tests.conditions.examples import TEXT, batch

TEXTS = make_condition("text", width=8, depth=1, length=5)


def test_null_text_is_the_empty_text():
    """Paper: the published text model is guided by the encoding of ""."""
    condition = make_condition("text", **TEXT)
    null = condition.null(batch())
    empty = condition.from_user("")
    np.testing.assert_array_equal(null["tokens"][0], empty["tokens"][0])


def test_the_caption_of_a_record_becomes_tokens():
    text = make_condition("text", **TEXT)
    assert text.prepare({"caption": "ab"})["tokens"].tolist() == [100, 101, 1, 0, 0, 0]


def test_clip_text_comes_from_frozen_parameters():
    fields = dict(encoder="clip", num_heads=2, **TEXT)
    condition = make_condition("text", **fields)
    y = batch()
    assert condition.init(jax.random.key(0), y) == {}
    with pytest.raises(ValueError, match=r'needs frozen\["conditioner"\]'):
        condition.encode({}, y)


def test_prompts_are_given_one_by_one_or_in_a_file(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a\n\n b \n")
    expected = [[100, 1, 0, 0, 0], [101, 1, 0, 0, 0]]
    for given in (["a", "b"], file, str(file)):
        assert TEXTS.from_user(text=given)["tokens"].tolist() == expected


def test_empty_and_missing_prompt_files_are_refused(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("\n")
    with pytest.raises(ValueError, match="must be a prompt"):
        TEXTS.from_user(text=file)
    with pytest.raises(ValueError, match=r"no .*other\.txt"):
        TEXTS.from_user(text="other.txt")
    with pytest.raises(ValueError, match="a prompt is a text"):
        TEXTS.from_user(text=[3])


def test_records_without_a_caption_name_the_setting_that_brings_it():
    with pytest.raises(ValueError, match=r"made of caption: got records with label"):
        TEXTS.prepare({"label": 3})


def test_a_name_of_a_folder_is_a_prompt_like_any_other(tmp_path):
    """Of texts only files are read, whatever else has such a name."""
    assert TEXTS.from_user(text=str(tmp_path))["tokens"].shape == (1, 5)


def test_prompts_that_are_cut_are_named_in_a_warning(caplog):
    """Bytes and one token for the end: "four" fits into 5, "fives" does not."""
    TEXTS.from_user(text=["four", "fives"])
    (record,) = caplog.records
    assert "first 5 of its 6 tokens" in record.message and "fives" in record.message


def test_fields_of_the_other_encoder_are_refused():
    with pytest.raises(ValueError, match='encoder "transformer" has no mlp_width'):
        make_condition("text", mlp_width=8)
    with pytest.raises(ValueError, match='encoder "clip" has no head_channels'):
        make_condition("text", encoder="clip", head_channels=8)
