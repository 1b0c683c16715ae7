# SPDX-License-Identifier: Apache-2.0
"""Writes `report.html` of a working directory: one page that shows a run so far."""

import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ldm_jax.reports.curves import curves
from ldm_jax.reports.page import (
    Html,
    bars,
    code,
    folded,
    heading,
    pairs,
    paragraph,
    picture,
    write_page,
)
from ldm_jax.training.monitoring.goodput import goodput
from ldm_jax.training.monitoring.metric_rows import read_rows

PAGE = "report.html"
# Metrics with their own curves; the others of a row share the rest of the page.
NOT_SHOWN = {"step", "images", "epochs", "skipped", "loss", "learning_rate"}
# Evaluations whose pictures are shown: the first, some between, the last.
MAX_PICTURES = 4
# Figures of an evaluation at one noise level: "accuracy_t/0100" is that at t = 100.
AT_LEVEL = re.compile(r"(.+)_t/(\d+)")

Rows = Sequence[Mapping[str, Any]]


def write_report(
    folder: pathlib.Path, label: str, settings: Mapping[str, Any] | None
) -> None:
    """Writes the page of a run from the files in its directory.

    Args:
      folder: holds metrics.jsonl, evaluation.jsonl, timing.jsonl and images/.
      label: kind of run.
      settings: of its config.
    """
    write_page(folder / PAGE, f"{label}: {folder.name}", run_parts(folder, settings))


def run_parts(
    folder: pathlib.Path, settings: Mapping[str, Any] | None = None
) -> list[Html]:
    """Makes the parts of a page that show one run; the pages of several runs use them.

    Arguments as of `write_report`.
    """
    rows = read_rows(folder / "metrics.jsonl")
    evaluations = read_rows(folder / "evaluation.jsonl")
    timing = read_rows(folder / "timing.jsonl", ("time",))
    parts = [pairs(_state(rows, evaluations)), *_loss(rows), *_pictures(folder)]
    parts += _evaluations(evaluations)
    parts += _time(timing)
    others = _series(rows, NOT_SHOWN)
    if others:
        shown = [curves(name, {name: points}) for name, points in others.items()]
        parts.append(folded("further curves", *shown))
    if settings:
        text = json.dumps(dict(settings), indent=1, default=str)
        parts.append(folded("settings", code(text)))
    return parts


def _state(rows: Rows, evaluations: Rows) -> dict[str, Any]:
    """Describes how far the run is."""
    if not rows:
        return {"steps": "none yet"}
    last = rows[-1]
    state = {"steps": last["step"]}
    state |= {n: last[n] for n in ("images", "epochs", "loss") if n in last}
    if evaluations:
        step = evaluations[-1]["step"]
        figures = {
            name: value
            for name, value in evaluations[-1].items()
            if name != "step" and not AT_LEVEL.fullmatch(name)
        }
        state |= {f"{name} (step {step:,})": value for name, value in figures.items()}
    return state


def _loss(rows: Rows) -> list[Html]:
    """Makes the curves of loss and rate, and the number of skipped steps."""
    is_positive = all((row.get("loss") or 0) > 0 for row in rows)
    loss = {"loss": _points(rows, "loss")}
    parts = [heading("Loss and rate"), curves("loss", loss, is_log=is_positive)]
    if rate := _points(rows, "learning_rate"):
        parts.append(curves("learning rate", {"rate": rate}))
    if skipped := sum(row.get("skipped") or 0 for row in rows):
        parts.append(paragraph(f"{int(skipped)} steps were skipped, see metrics.jsonl"))
    return parts


def _evaluations(rows: Rows) -> list[Html]:
    """Makes a curve of every figure of the evaluations, over steps or noise levels."""
    series = _series(rows, {"step"})
    if not series:
        return []
    made = _by_level(rows)
    made += [
        curves(name, {name: points}, has_dots=True)
        for name, points in series.items()
        if not AT_LEVEL.fullmatch(name)
    ]
    return [heading("Evaluations"), *made]


def _by_level(rows: Rows) -> list[Html]:
    """Makes curves over t of figures at noise levels, of the first and last row."""
    figures: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in {row["step"]: row for row in (rows[0], rows[-1])}.values():
        for name, value in row.items():
            if (match := AT_LEVEL.fullmatch(name)) and value is not None:
                lines = figures.setdefault(match[1], {})
                points = lines.setdefault(f"step {row['step']:,}", [])
                points.append((int(match[2]), value))
    return [
        curves(f"{name} by noise level t", lines, x_label="t", has_dots=True)
        for name, lines in figures.items()
    ]


def _pictures(folder: pathlib.Path) -> list[Html]:
    """Makes figures of the sheets over time: the first, some between, the last."""
    parts = []
    files = sorted((folder / "images").glob("*_*.png"))
    for name in dict.fromkeys(file.stem.rpartition("_")[0] for file in files):
        sheets = [file for file in files if file.stem.rpartition("_")[0] == name]
        last = len(sheets) - 1
        count = min(MAX_PICTURES, len(sheets))
        places = {round(i * last / max(count - 1, 1)) for i in range(count)} | {last}
        parts.append(heading(name.capitalize()))
        for place in sorted(places, reverse=True):
            step = int(sheets[place].stem.rpartition("_")[2])
            parts.append(picture(sheets[place], f"step {step:,}"))
    return parts


def _time(rows: Rows) -> list[Html]:
    """Makes the histogram of where the time went, and the curve of the speed."""
    shares = {name: 100 * share for name, share in goodput(rows).items() if share}
    if not shares:
        return []
    speed = {"images per second": _points(rows, "images_per_second")}
    return [
        heading("Time"),
        bars("share of the time since the first start", shares, " %"),
        curves("images per second", speed),
    ]


def _series(rows: Rows, without: set[str]) -> dict[str, list[tuple[float, float]]]:
    """Returns the points of every name in the rows."""
    names = dict.fromkeys(name for row in rows for name in row if name not in without)
    return {name: points for name in names if (points := _points(rows, name))}


def _points(rows: Rows, name: str) -> list[tuple[float, float]]:
    """Returns (step, value) where a row has a value."""
    return [
        (row["step"], row[name])
        for row in rows
        if isinstance(row.get(name), (int, float))
    ]
