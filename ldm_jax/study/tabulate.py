# SPDX-License-Identifier: Apache-2.0
"""Makes the table of a study: a row for each arm."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ldm_jax.metrics.paper import find_row
from ldm_jax.metrics.tables import number
from ldm_jax.study.rows import (
    Row,
    last_rows,
    mean_and_error,
    read_summary,
    reconstruction_figures,
    results,
)

MISSING = "–"
# Metric of the first stage -> head of its column; "" takes R- and the metric's label.
FIRST_STAGE = {
    "codebook_usage": "codes used",
    "fid": "",
    "kid": "",
    "psnr": "PSNR [dB]",
    "ssim": "SSIM",
    "lpips": "LPIPS",
}


def make_table(directory: str | os.PathLike) -> tuple[list[str], list[list[str]]]:
    """Makes the table of finished stages.

    Args:
      directory: of a study.

    Returns:
      (heads, rows of cells), an arm a row; columns without any value are left out.
    """
    summary, rows = read_summary(directory), results(directory)
    entries = [
        _entry(directory, arm, about, summary, [r for r in rows if r["arm"] == arm])
        for arm, about in summary["arms"].items()
    ]
    fullest = sorted(entries, key=len, reverse=True)  # its order is that of the table
    heads = list(dict.fromkeys(name for entry in fullest for name in entry))
    kept = [n for n in heads if any(e.get(n, MISSING) != MISSING for e in entries)]
    return kept, [[entry.get(name, MISSING) for name in kept] for entry in entries]


def labels_of(rows: Sequence[Row]) -> list[str]:
    """Returns the labels of the metrics that rows have."""
    known = {
        *("arm", "f", "seed", "step", "num_steps", "folder", "images", "flops"),
        *("hours", "images_per_second", "num_images", "device"),
    }
    return list(
        dict.fromkeys(name for row in rows for name in row if name not in known)
    )


def _entry(
    directory: str | os.PathLike, arm: str, about: Row, summary: Row, rows: list[Row]
) -> dict[str, str]:
    """Makes the cells of one arm, by the heads of their columns."""
    num_steps, final = summary["study"]["num_steps"], last_rows(rows)
    stage = reconstruction_figures(directory, about["stage"])
    usual = [row for row in final if row["num_steps"] == num_steps]
    cells = {
        "arm": arm,
        "f": str(about["f"]),
        "latent": "x".join(map(str, about["latent_shape"])),
        "bottleneck": about["bottleneck"],
    }
    for name, head in FIRST_STAGE.items():
        entry = stage.get(name)
        if entry is not None:
            cells[head or f"R-{entry.label}"] = number(entry.value)
    cells |= {
        "parameters": f"{about['parameters'] / 1e6:.3g}M",
        "GFLOP/image": number(about["flops_per_image"] / 1e9),
        "first stage [FLOPs]": _scientific(about["first_stage_flops"]),
    }
    cells |= _training(usual)
    for name in labels_of(rows):
        cells[name] = _over_seeds([row[name] for row in usual])
    if about["paper_rows"]:
        cells["paper"] = "; ".join(map(_paper, about["paper_rows"]))
    for steps in sorted({row["num_steps"] for row in final}):
        speeds = [r["images_per_second"] for r in final if r["num_steps"] == steps]
        known = [speed for speed in speeds if speed]
        cells[f"images/s, {steps} steps"] = number(max(known)) if known else MISSING
    return cells


def _training(usual: list[Row]) -> dict[str, str]:
    """Makes the cells of how long the denoisers were trained."""
    if not usual:
        return {}
    row = usual[0]
    hours = [r["hours"] for r in usual if r["hours"] is not None]
    return {
        "steps": f"{row['step']:,}",
        "images seen": f"{row['images']:,}",
        "training [FLOPs]": _scientific(row["flops"]),
        "device-hours": _over_seeds(hours) if hours else MISSING,
        "seeds": str(len(usual)),
    }


def _over_seeds(values: Sequence[float]) -> str:
    if not values:
        return MISSING
    mean, error = mean_and_error(values)
    return number(mean) if error is None else f"{number(mean)} ± {error:.2g}"


def _scientific(value: float) -> str:
    return f"{value:.3g}" if value else MISSING


def _paper(row: str) -> str:
    """Writes the paper's figures of a model."""
    paper_row = find_row(row)
    figures = ", ".join(
        f"{name} {value:g}" for name, value in paper_row.figures.items()
    )
    return f"{figures} ({paper_row.where})"


def to_markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Writes a table as Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def to_csv(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Writes a table as CSV."""
    lines = [heads, *rows]
    return "".join(",".join(_quoted(cell) for cell in line) + "\n" for line in lines)


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if {",", '"'} & set(cell) else cell


def differing_settings(
    arms: Mapping[str, Mapping[str, Any]],
) -> tuple[list[str], list[list[str]]]:
    """Lists the settings in which the denoisers of arms differ: (heads, rows)."""
    settings = {name: about["settings"] for name, about in arms.items()}
    names = sorted({key for values in settings.values() for key in values})
    rows = []
    for key in names:
        cells = [values.get(key, MISSING) for values in settings.values()]
        if len(set(cells)) > 1:
            rows.append([key, *cells])
    return ["setting", *settings], rows
