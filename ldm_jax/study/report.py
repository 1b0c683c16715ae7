# SPDX-License-Identifier: Apache-2.0
"""Writes the report of a study from its finished stages: a folder of local files.

index.html      everything, with its pictures inside
table.md, table.csv, results.jsonl
plots/          each figure as PNG and SVG; the sheets as PNG
"""

import base64
import html
import importlib.metadata
import io
import json
import os
import platform
from typing import Any

from etils import epath
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from ldm_jax.files.paths import resolve
from ldm_jax.files.writing import write_bytes, write_text
from ldm_jax.parallel.hosts import is_main_process
from ldm_jax.reports import page
from ldm_jax.study import plots, sheets, tabulate
from ldm_jax.study.rows import (
    Row,
    failures,
    last_rows,
    mean_and_error,
    read_summary,
    reconstruction_figures,
    results,
    warnings_of,
)

PLOT_STYLE = """<style>
.plot, .switch { width: 505px; max-width: 100%; }
.plot img { image-rendering: auto; background: #fff; border-radius: 6px; width: 100%; }
.switch { display: inline-block; vertical-align: top; margin-right: 1em; }
.switch > label { font-size: .9em; margin-right: .8em; }
.switch > figure { display: none; }
.switch > input:nth-of-type(1):checked ~ figure:nth-of-type(1),
.switch > input:nth-of-type(2):checked ~ figure:nth-of-type(2),
.switch > input:nth-of-type(3):checked ~ figure:nth-of-type(3) { display: block; }
.wide { overflow-x: auto; } .wide td, .wide th { white-space: nowrap;
        overflow-wrap: normal; }
</style>"""


def write_study_report(out: str | os.PathLike) -> None:
    """Writes the report of a study.

    Args:
      out: directory of the study; gets index.html and the files above.

    Raises:
      ValueError: no study was started in the directory.
    """
    summary, rows = read_summary(out), results(out)
    if not is_main_process():
        return
    folder = resolve(out)
    heads, cells = tabulate.make_table(out)
    write_text(folder / "table.md", tabulate.to_markdown(heads, cells))
    write_text(folder / "table.csv", tabulate.to_csv(heads, cells))
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    write_text(folder / "results.jsonl", lines)
    title = f"Study of {', '.join(summary['arms'])}"
    parts = [
        page.Html(PLOT_STYLE),
        *_introduction(summary, rows),
        page.heading("Results"),
        _wide(page.table(*_transposed(heads, cells))),
        page.paragraph(
            "± is the standard error over seeds. FLOPs are those of matrix products "
            "and convolutions in training, counted, not measured. Images per second "
            "are those of the fastest batch."
        ),
        *_of_training(folder, summary, rows),
        *_of_speed(folder, rows),
        *_of_first_stages(folder, summary),
        *sheets.of_samples(folder, summary, rows),
        *_what_was_run(folder, summary, rows),
    ]
    page.write_page(folder / "index.html", title, parts)


def _introduction(summary: Row, rows: list[Row]) -> list[page.Html]:
    """Describes the comparison and missing stages, before any figure."""
    study, arms = summary["study"], summary["arms"]
    text = (
        f"{len(arms)} models are compared at equal budget: "
        f"{summary['budget']['text']}. Images of {study['image_size']}x"
        f"{study['image_size']}, {study['num_samples']} samples at each point, "
        f"feature network {study['feature_network']}, seeds "
        f"{', '.join(map(str, study['seeds']))}."
    )
    missing = [
        f"{arm}, seed {seed}"
        for arm in arms
        for seed in study["seeds"]
        if not any(row["arm"] == arm and row["seed"] == seed for row in rows)
    ]
    parts = [page.paragraph(text)]
    if missing:
        parts.append(page.paragraph(f"Not finished yet: {'; '.join(missing)}."))
    return parts


def _of_training(folder: epath.Path, summary: Row, rows: list[Row]):
    """Makes the figures of quality over training: one for each metric, three x axes."""
    parts = []
    for number, metric in enumerate(tabulate.labels_of(rows)):
        figures = []
        for x, label in plots.PROGRESS.items():
            figure = plots.quality_over_training(rows, metric, x)
            name = f"{_file_name(metric)}_over_{x}"
            figures.append((label.partition(" [")[0], _save(folder, name, figure)))
        caption = _best(rows, metric, summary["study"]["num_steps"])
        if number == 0:
            parts.append(page.heading("Quality over training (as the paper's Fig. 6)"))
        parts.append(_switch(f"x{number}", figures, caption))
    return parts


def _best(rows: list[Row], metric: str, num_steps: int) -> str:
    """Writes the sentence below a figure: which arm leads at the end, by how much."""
    ends: dict[str, list[float]] = {}
    for row in last_rows(rows):
        if row["num_steps"] == num_steps and metric in row:
            ends.setdefault(row["arm"], []).append(row[metric])
    ranked = sorted(
        ((*mean_and_error(values), arm) for arm, values in ends.items()),
        key=lambda entry: entry[0],
        reverse=plots.is_higher_better(metric),
    )
    named = ", ".join(
        f"{arm} {mean:.3g}" + (f" ± {error:.1g}" if error else "")
        for mean, error, arm in ranked
    )
    return f"At the end of the budget, best first: {named}. Bands: standard error."


def _of_speed(folder: epath.Path, rows: list[Row]) -> list[page.Html]:
    """Makes the figures of quality over sampling speed."""
    if len({row["num_steps"] for row in rows}) < 2:
        return []
    parts = [page.heading("Quality over sampling speed (as the paper's Fig. 7)")]
    for metric in tabulate.labels_of(rows):
        figure = plots.quality_over_speed(rows, metric)
        name = f"{_file_name(metric)}_over_speed"
        caption = (
            "Each point is the last checkpoint, sampled with the number of steps next "
            "to it; to the right is faster."
        )
        parts.append(_plot(_save(folder, name, figure), caption))
    return parts


def _of_first_stages(folder: epath.Path, summary: Row) -> list[page.Html]:
    """Makes the figures of rate and distortion, and the sheet of reconstructions."""
    stages = {
        arm: (about["f"], reconstruction_figures(folder, about["stage"]))
        for arm, about in summary["arms"].items()
    }
    known = {name: d.label for _, ds in stages.values() for name, d in ds.items()}
    if not known:
        return []
    parts = [page.heading("First stages: rate and distortion (as the paper's Tab. 8)")]
    shown = [name for name in ("psnr", "fid", "kid", "lpips") if name in known]
    for name in shown[:2]:
        label = "PSNR [dB]" if name == "psnr" else f"R-{known[name]}"
        values = {
            arm: (f, {n: d.value for n, d in ds.items()})
            for arm, (f, ds) in stages.items()
        }
        figure = plots.distortion_over_f(values, name, label)
        text = f"{label} of held-out images that a first stage encodes and decodes."
        parts.append(_plot(_save(folder, f"{name}_over_f", figure), text))
    return [*parts, *sheets.of_reconstructions(folder, summary)]


def _what_was_run(folder: epath.Path, summary: Row, rows: list[Row]):
    """Lists versions, devices, differences between arms, warnings and failures."""
    parts = [page.heading("What was run")]
    failed, warnings = failures(folder), warnings_of(folder)
    network = summary["study"]["feature_network"]
    if network != "inception":
        warnings.append(
            f'the feature network is "{network}", not InceptionV3: distances have its '
            "name, and are not FID or KID."
        )
    if failed:
        parts += [page.paragraph("Failed stages:"), page.pairs(failed)]
    parts += [page.paragraph(f"Warning: {text}") for text in warnings]
    versions = {name: importlib.metadata.version(name) for name in ("jax", "flax")}
    devices = sorted({row["device"] for row in rows if row["device"]})
    about = {
        "trained on": ", ".join(devices),
        "versions": ", ".join(f"{n} {v}" for n, v in versions.items()),
        "Python": platform.python_version(),
        "evaluations": len(rows),
    }
    heads, cells = tabulate.differing_settings(summary["arms"])
    settings: dict[str, Any] = {n: str(v) for n, v in summary["study"].items()}
    return [
        *parts,
        page.pairs(about),
        page.folded(
            "Settings in which the denoisers differ", _wide(page.table(heads, cells))
        ),
        page.folded("Settings that all arms share", page.pairs(settings)),
    ]


def _file_name(label: str) -> str:
    """Makes a file name of a metric's label: "KD(random)" -> "kd_random"."""
    kept = "".join(c if c.isalnum() else " " for c in label.lower())
    return "_".join(kept.split())


def _save(folder: epath.Path, name: str, figure: Figure) -> bytes:
    """Writes a figure as PNG and SVG; returns the SVG."""
    figure.set_dpi(110)
    png_file, svg_file = io.BytesIO(), io.BytesIO()
    FigureCanvasAgg(figure).print_png(png_file)
    FigureCanvasSVG(figure).print_svg(svg_file)
    for kind, file in {"png": png_file, "svg": svg_file}.items():
        write_bytes(folder / "plots" / f"{name}.{kind}", file.getvalue())
    return svg_file.getvalue()


def _plot(svg: bytes, caption: str) -> page.Html:
    """Makes a figure of an SVG, which is copied into the page."""
    data = base64.b64encode(svg).decode()
    text, source = html.escape(caption), f"data:image/svg+xml;base64,{data}"
    return page.Html(
        f'<figure class="plot"><img alt="{text}" src="{source}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def _switch(group: str, figures: list[tuple[str, bytes]], caption: str):
    """Makes figures of which one is shown, with a button for each."""
    buttons = [
        f'<input type="radio" name="{group}" id="{group}-{number}"'
        f"{' checked' if number == 0 else ''}>"
        f'<label for="{group}-{number}"> {html.escape(label)}</label>'
        for number, (label, _) in enumerate(figures)
    ]
    shown = [_plot(svg, caption) for _, svg in figures]
    return page.Html(f'<div class="switch">{"".join([*buttons, *shown])}</div>')


def _transposed(heads: list[str], rows: list[list[str]]):
    """Makes an arm a column, for a page that is narrower than the table."""
    columns = [*zip(*rows, strict=True)]
    lines = [[head, *cells] for head, cells in zip(heads, columns, strict=True)]
    return lines[0], lines[1:]


def _wide(table: page.Html) -> page.Html:
    """Lets a table that is wider than the page be scrolled."""
    return page.Html(f'<div class="wide">{table}</div>')
