# SPDX-License-Identifier: Apache-2.0
"""Conditions made of a config's section."""

import pytest

from ldm_jax.conditions.fields import FirstStageFields
from ldm_jax.conditions.registry import CONDITIONS, condition_flags, make_condition
from ldm_jax.models.autoencoder import Autoencoder
from tests.conditions.examples import FIRST_STAGE, batch


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("clas", {}, "one of: class, hybrid, inpaint"),
        ("semantic", dict(num_classes=3, f=6), "power of two"),
        ("text", dict(encoder="t5"), "one of: clip, transformer"),
    ],
)
def test_unknown_choices_are_refused_with_the_list(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        make_condition(kind, **fields)


def test_a_condition_learns_of_the_first_stage_what_it_is_not_told():
    first_stage = FirstStageFields(Autoencoder(**FIRST_STAGE), 3.0)
    semantic = make_condition("semantic", first_stage, num_classes=3)
    assert semantic.module.num_stages == 1
    assert make_condition("superres", first_stage).image_size(batch()) == (8, 8)
    told = make_condition("semantic", first_stage, num_classes=3, f=8)
    assert told.module.num_stages == 3


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("class", dict(num_classes=0), "num_classes must be a whole number from 1 to"),
        ("class", dict(num_classes=10**9), "from 1 to 1048576: got 1000000000"),
        ("class", dict(num_classes=4, width=-1), "condition.width must be"),
        ("class", dict(num_classes=True), "num_classes must be .* got True"),
        ("class", dict(num_classes="10"), "num_classes must be .* got '10'"),
        ("text", dict(length=10**7), "condition.length must be"),
        ("text", dict(depth=10**7), "condition.depth must be"),
        ("layout", dict(num_classes=3, max_objects=0), "condition.max_objects must"),
        ("semantic", dict(num_classes=3, f=4, out_channels=0), "out_channels must be"),
        ("superres", dict(f=0), "condition.f must be"),
        ("class", dict(num_clases=4), 'did you mean "num_classes"'),
        ("hybrid", {}, "parts must name the parts"),
    ],
)
def test_fields_out_of_range_are_refused_by_name(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        make_condition(kind, **fields)


def test_each_kind_declares_the_name_of_its_row():
    assert {kind: made.kind for kind, made in CONDITIONS.items()} == {
        kind: kind for kind in CONDITIONS
    }


def test_no_two_kinds_use_one_flag_or_keyword_for_different_inputs():
    """A flag is one argument of the command line, whatever the model's kind."""
    assert condition_flags().keys() >= {"label", "prompt", "boxes", "image", "mask"}
    arguments = {}
    for condition in CONDITIONS.values():
        if isinstance(condition.fields, dict):
            for field in condition.fields.values():
                assert (
                    arguments.setdefault(field.flag, field.argument) == field.argument
                )
