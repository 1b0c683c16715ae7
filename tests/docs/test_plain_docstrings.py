# SPDX-License-Identifier: Apache-2.0
"""The documentation site's form of docstrings and types."""

import importlib.util
import pathlib

import pytest

pytest.importorskip("sphinx")
PATH = pathlib.Path(__file__).parents[2] / "docs/extensions/plain_docstrings.py"


@pytest.fixture(scope="module")
def module():
    spec = importlib.util.spec_from_file_location(PATH.stem, PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_indented_paragraph_is_code_and_arguments_are_not(module):
    lines = ["Adds.", "", "    z = a + b", "", "Args:", "  a: a number", "    or two."]
    expected = ["Adds.", "", "::", "", *lines[2:]]
    assert module.mark_code(lines) == expected


def test_both_kinds_of_arrays_are_shown_as_one(module):
    both = "z: a.Float[~jaxlib._jax.Array, 'B c'] | a.Float[ndarray, 'B c']"
    assert module.shorten_arrays(both) == "z: Float[Array, 'B c']"
    other = "z: Float[jaxlib._jax.Array, 'B c'] | Float[ndarray, 'B']"
    assert module.shorten_arrays(other) == other
