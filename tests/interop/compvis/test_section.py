# SPDX-License-Identifier: Apache-2.0
"""Sections of CompVis configs, read field by field."""

import pytest

from ldm_jax.interop.compvis.section import Section, section_params


def test_fields_are_taken_once_and_converted():
    section = Section("model.params", {"rate": "1e-4", "mult": [1, 2], "monitor": "x"})
    assert section.take("rate", kind=float) == 1e-4
    assert section.take("rate", 0.5, float) == 0.5  # the default: it was taken
    assert section.need("mult") == (1, 2)
    section.done()  # `monitor` concerns training only
    nested = Section("a", {"b": {"target": "x", "params": {"c": 1}}})
    assert nested.section("b") == {"c": 1} and section_params({"target": "x"}) == {}


def test_the_error_names_the_field():
    def section(**fields):
        return Section("model.params", fields)

    with pytest.raises(ValueError, match=r"model\.params of the config lacks unet"):
        section().need("unet")
    with pytest.raises(ValueError, match=r"model\.params\.a .*finite number: got inf"):
        section(a="inf").take("a", kind=float)
    with pytest.raises(ValueError, match=r"model\.params\.a .*must not be set"):
        section(a=1).refuse("a")
    with pytest.raises(ValueError, match=r"unknown fields .*colour"):
        section(colour=1).done()
