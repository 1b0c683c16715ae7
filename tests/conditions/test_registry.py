# SPDX-License-Identifier: Apache-2.0
"""Conditions made of a config's section."""

import itertools
import pathlib
import re

import pytest

from ldm_jax.conditions.fields import FirstStageFields
from ldm_jax.conditions.registry import CONDITIONS, condition_flags, make_condition
from ldm_jax.models.autoencoder import Autoencoder
from tests.conditions.examples import FIRST_STAGE, batch

ROOT = pathlib.Path(__file__).parents[2]


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


def test_a_section_takes_from_the_first_stage_what_it_leaves_out():
    first_stage = FirstStageFields(Autoencoder(**FIRST_STAGE), 3.0)
    semantic = make_condition("semantic", first_stage, num_classes=3)
    assert semantic.module.num_stages == 1
    assert make_condition("superres", first_stage).image_size(batch()) == (8, 8)
    given = make_condition("semantic", first_stage, num_classes=3, f=8)
    assert given.module.num_stages == 3


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
def test_fields_out_of_range_are_refused_by_name(
    kind, fields, message, unchecked_shapes
):
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


def table_of(page, *heads):
    """Rows of a page's table with these column heads, as lists of cells."""
    lines = iter((ROOT / page).read_text().splitlines())
    cells = lambda line: [cell.strip() for cell in line.strip("|").split("|")]  # noqa: E731
    assert any(cells(line)[: len(heads)] == list(heads) for line in lines)
    next(lines)
    return [cells(line) for line in itertools.takewhile(lambda x: x[:1] == "|", lines)]


def test_the_readme_lists_the_keywords_and_axes_of_every_kind():
    table = table_of("README.md", "keyword", "condition", "value")
    rows = {row[1]: row for row in table}
    for kind, condition in CONDITIONS.items():
        if not isinstance(condition.fields, dict) or not condition.fields:
            continue
        keywords, _, meaning = rows[kind]
        fields = condition.fields.values()
        expected = {f"{name}=" for field in fields for name in field.keywords}
        assert set(re.findall(r"\w+=", keywords)) == expected
        for field in fields:
            axes = ", ".join(map(str, field.axes)).replace("length", "M")
            assert f"[{axes}]" in meaning
    assert set(rows) - {"any"} <= set(CONDITIONS)


def test_the_page_on_conditions_lists_the_flags_of_every_kind():
    rows = table_of("ldm_jax/tasks/README.md", "kind", "data", "`ldm-jax sample`")
    flags = {row[0].strip("`"): set(re.findall(r"--([\w-]+)", row[2])) for row in rows}
    assert set(flags) == set(CONDITIONS)
    for kind, condition in CONDITIONS.items():
        if isinstance(condition.fields, dict):
            assert flags[kind] == {field.flag for field in condition.fields.values()}
