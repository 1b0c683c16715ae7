# SPDX-License-Identifier: Apache-2.0
"""Curves go through their points."""

import math
import re

import pytest

from ldm_jax.reports.curves import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, curves


def places(svg):
    points = re.search(r'points="([^"]+)"', svg)[1]
    return [tuple(map(float, pair.split(","))) for pair in points.split()]


@pytest.mark.parametrize(("is_log", "middle"), [(False, 5.5), (True, math.sqrt(10))])
def test_a_curve_spans_its_axes(is_log, middle):
    """Oracle: the middle of the values is the middle of the axis."""
    svg = curves("loss", {"a": [(0, 1.0), (1, middle), (2, 10.0)]}, is_log=is_log)
    (x0, y0), (x1, y1), (x2, y2) = places(svg)
    assert (x0, y0) == (LEFT, HEIGHT - BOTTOM) and (x2, y2) == (WIDTH - RIGHT, TOP)
    assert x1 == pytest.approx((x0 + x2) / 2, abs=0.1)
    assert y1 == pytest.approx((y0 + y2) / 2, abs=0.1)


def test_points_that_cannot_be_shown_are_left_out():
    points = [(0, 1.0), (1, math.nan), (2, math.inf), (3, -1.0), (4, 2.0)]
    assert len(places(curves("a", {"a": points}))) == 3
    assert len(places(curves("a", {"a": points}, is_log=True))) == 2


def test_no_points_are_a_sentence_and_equal_ones_a_line():
    assert "nothing to show yet" in curves("a", {"a": []})
    assert len(places(curves("a", {"a": [(1, 2.0), (2, 2.0)]}))) == 2


def test_many_points_are_thinned_out():
    assert len(places(curves("a", {"a": [(i, i) for i in range(10_000)]}))) <= 400


def test_several_curves_are_named():
    svg = curves("a", {"<one>": [(0, 1)], "two": [(0, 2)]})
    assert "&lt;one&gt;" in svg and ">two<" in svg
