# SPDX-License-Identifier: Apache-2.0
"""Draws the figures of a study from its rows (`study.results`), also in a notebook.

figure = plots.quality_over_training(rows, "FID", "flops")
figure.savefig("fig6.svg")
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from ldm_jax.metrics.tables import HIGHER_IS_BETTER
from ldm_jax.study.rows import Row, last_rows, mean_and_error

# Okabe & Ito 2008: colours that colour-blind readers can distinguish, too.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
MARKERS = "osD^vPX"
# x of the figures over training -> label of the axis.
PROGRESS = {
    "flops": "training compute [FLOPs of the denoiser]",
    "step": "training steps",
    "hours": "training time [device-hours]",
}
SIZE = (5.4, 3.6)


@dataclasses.dataclass(frozen=True)
class Curve:
    """Means over seeds, with their standard errors (0 of one seed)."""

    x: list[float]
    y: list[float]
    error: list[float]


def mean_curves(rows: Sequence[Row], x: str, y: str, group: str) -> dict[str, Curve]:
    """Averages rows over seeds.

    Args:
      rows: of `results`.
      x, y: names of what is drawn; rows without them are left out.
      group: the field that rows of one point share, besides the arm ("step").

    Returns:
      {arm: Curve}, in the order of the rows.
    """
    made = {}
    for arm in dict.fromkeys(row["arm"] for row in rows):
        points: dict[Any, list[Row]] = {}
        for row in rows:
            if row["arm"] == arm and None not in (row.get(x), row.get(y)):
                points.setdefault(row[group], []).append(row)
        means = [
            (
                mean_and_error([row[x] for row in points[key]])[0],
                *mean_and_error([row[y] for row in points[key]]),
            )
            for key in sorted(points)
        ]
        if means:
            xs, ys, errors = zip(*means, strict=True)
            made[arm] = Curve([*xs], [*ys], [error or 0.0 for error in errors])
    return made


def quality_over_training(rows: Sequence[Row], metric: str, x: str) -> Figure:
    """Draws a metric over training, a line for each arm (the paper's Fig. 6).

    Args:
      rows: of `results`.
      metric: its label.
      x: a key of PROGRESS.
    """
    own = _with_usual_steps(rows)
    figure, axes = _axes(PROGRESS[x], metric)
    for number, (arm, curve) in enumerate(mean_curves(own, x, metric, "step").items()):
        _line(axes, number, arm, curve)
    _finish(axes, metric)
    return figure


def quality_over_speed(rows: Sequence[Row], metric: str) -> Figure:
    """Draws a metric over sampling speed, points are numbers of steps (Fig. 7)."""
    figure, axes = _axes("sampling speed [images/s]", metric)
    final = last_rows(rows)
    drawn = mean_curves(final, "images_per_second", metric, "num_steps")
    for number, (arm, curve) in enumerate(drawn.items()):
        _line(axes, number, arm, curve)
        steps = sorted({row["num_steps"] for row in final if row["arm"] == arm})
        for place, (x, y) in zip(
            steps, zip(curve.x, curve.y, strict=True), strict=True
        ):
            axes.annotate(
                str(place), (x, y), (3, 4), textcoords="offset points", fontsize=7
            )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.xaxis.set_minor_formatter(lambda x, _: f"{x:g}" if f"{x:e}"[0] in "25" else "")
    _finish(axes, metric)
    return figure


def distortion_over_f(
    stages: Mapping[str, tuple[int, Mapping[str, float]]], metric: str, label: str
) -> Figure:
    """Draws a metric of the first stages over their downsampling factors (Tab. 8).

    Args:
      stages: name of an arm -> (f, metrics of its first stage); all arms, so that each
        has its colour.
      metric: which of them.
      label: of its axis.
    """
    figure, axes = _axes("downsampling factor f", label)
    order = {arm: number for number, arm in enumerate(stages)}
    points = sorted(
        (f, m[metric], arm) for arm, (f, m) in stages.items() if metric in m
    )
    axes.plot(*zip(*[p[:2] for p in points], strict=True), color="#999999", zorder=1)
    for f, value, arm in points:
        axes.scatter([f], [value], color=PALETTE[order[arm] % len(PALETTE)], zorder=2)
        axes.annotate(arm, (f, value), (5, 4), textcoords="offset points", fontsize=8)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xticks(sorted({point[0] for point in points}))
    return figure


def _with_usual_steps(rows: Sequence[Row]) -> list[Row]:
    """Keeps the rows that were sampled with the steps of every point, not the sweep."""
    counts: dict[int, set[int]] = {}
    for row in rows:
        counts.setdefault(row["num_steps"], set()).add(row["step"])
    usual = max(counts, key=lambda n: len(counts[n]), default=None)
    return [row for row in rows if row["num_steps"] == usual]


def _axes(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _line(axes: Axes, number: int, arm: str, curve: Curve) -> None:
    """Draws a line with a marker at each point and a band of the standard error."""
    colour = PALETTE[number % len(PALETTE)]
    marker = MARKERS[number % len(MARKERS)]
    axes.plot(curve.x, curve.y, color=colour, marker=marker, ms=4, lw=1.6, label=arm)
    low, high = (
        [y + sign * e for y, e in zip(curve.y, curve.error, strict=True)]
        for sign in (-1, 1)
    )
    axes.fill_between(curve.x, low, high, color=colour, alpha=0.18, lw=0)


def _finish(axes: Axes, metric: str) -> None:
    """Adds the legend and the better direction; a wide range gets a log axis."""
    values = [y for line in axes.get_lines() for y in np.asarray(line.get_ydata())]
    if values and min(values) > 0 and max(values) > 20 * min(values):
        axes.set_yscale("log")
    better = "higher" if is_higher_better(metric) else "lower"
    axes.set_ylabel(f"{metric}  ({better} is better)")
    if values:
        axes.legend(frameon=False, fontsize=8)


def is_higher_better(label: str) -> bool:
    """Returns whether a metric, by its label, is better when it is higher."""
    return label.partition("(")[0].lower() in HIGHER_IS_BETTER
