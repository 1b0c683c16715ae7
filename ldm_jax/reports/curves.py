# SPDX-License-Identifier: Apache-2.0
"""Curves as SVG, inside a page."""

import html
import math
from collections.abc import Mapping, Sequence

from ldm_jax.reports.page import COLOURS, Html

WIDTH, HEIGHT = 480, 240
LEFT, RIGHT, TOP, BOTTOM = 66, 10, 8, 34
MAX_POINTS = 400

Points = Sequence[tuple[float, float]]


def curves(
    title: str,
    series: Mapping[str, Points],
    *,
    x_label: str = "step",
    is_log: bool = False,
    has_dots: bool = False,
) -> Html:
    """Makes a figure of one curve or several over a common axis.

    Args:
      title: below the figure.
      series: name -> points (x, y); those that are not finite are left out, and so are
        y <= 0 on a logarithmic axis.
      x_label: of the horizontal axis.
      is_log: whether the vertical axis is logarithmic.
      has_dots: whether each point is marked: for few points.

    Returns:
      The figure; a sentence where there is no point to show.
    """
    shown = {name: _finite(points, is_log) for name, points in series.items()}
    shown = {name: points for name, points in shown.items() if points}
    if not shown:
        return Html(f"<p>{html.escape(title)}: nothing to show yet.</p>")
    every = [point for points in shown.values() for point in points]
    x_of = _scale([x for x, _ in every], LEFT, WIDTH - RIGHT, False)
    y_of = _scale([y for _, y in every], HEIGHT - BOTTOM, TOP, is_log)
    parts = [_axes([x for x, _ in every], [y for _, y in every], x_of, y_of, x_label)]
    for i, (name, points) in enumerate(shown.items()):
        colour = COLOURS[i % len(COLOURS)]
        parts.append(_line(points, x_of, y_of, colour, has_dots))
        if len(shown) > 1:
            x, y = LEFT + 8, TOP + 12 + 14 * i
            text = html.escape(name)
            parts.append(f'<text x="{x}" y="{y}" style="fill:{colour}">{text}</text>')
    svg = "".join(parts)
    return Html(
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" '
        f'aria-label="{html.escape(title)}">{svg}</svg>'
        f"<figcaption>{html.escape(title)}</figcaption></figure>"
    )


def _finite(points: Points, is_log: bool) -> list[tuple[float, float]]:
    """Returns the points that can be shown, thinned out to MAX_POINTS."""
    kept = [
        (x, y)
        for x, y in points
        if math.isfinite(x) and math.isfinite(y) and (y > 0 or not is_log)
    ]
    stride = -(-len(kept) // MAX_POINTS)
    return kept[:: stride or 1]


def _scale(values: Sequence[float], first: float, last: float, is_log: bool):
    """Makes the function from a value to its place between two pixels."""
    convert = math.log10 if is_log else float
    low, high = convert(min(values)), convert(max(values))
    span = (high - low) or 1.0
    return lambda value: first + (convert(value) - low) / span * (last - first)


def _axes(xs: Sequence[float], ys: Sequence[float], x_of, y_of, x_label: str) -> str:
    """Draws the axes, with the least and the largest value of each."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    lines = f"M{LEFT} {TOP}V{bottom}H{right}"
    labels: list[tuple[float, float, str, str]] = [
        (LEFT - 5, y_of(y) + 4, "end", f"{y:.3g}") for y in {min(ys), max(ys)}
    ]
    labels += [
        (x_of(x), bottom + 14, "end" if x == max(xs) else "start", f"{x:,.6g}")
        for x in {min(xs), max(xs)}
    ]
    labels.append(((LEFT + right) / 2, bottom + 28, "middle", x_label))
    texts = [
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(t)}</text>'
        for x, y, anchor, t in labels
    ]
    return f'<path d="{lines}" fill="none" stroke="#8888"/>{"".join(texts)}'


def _line(points: Points, x_of, y_of, colour: str, has_dots: bool) -> str:
    """Draws one curve."""
    places = [(x_of(x), y_of(y)) for x, y in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    line = f'<polyline points="{path}" fill="none" stroke="{colour}"/>'
    if not has_dots and len(places) > 1:
        return line
    return line + "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places
    )
