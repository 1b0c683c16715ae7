# SPDX-License-Identifier: Apache-2.0
"""Draws the sheets of a study's report: reconstructions and samples, a row per arm."""

import numpy as np
from etils import epath

from ldm_jax.files.formats import png
from ldm_jax.files.formats.pictures import read_image
from ldm_jax.reports import page
from ldm_jax.study.rows import Row

# Pictures are shown at least this large, in pixels.
LEAST_SIDE = 64


def of_reconstructions(folder: epath.Path, summary: Row) -> list[page.Html]:
    """Lays out the same held-out images and their reconstructions, an arm a row.

    Args:
      folder: of the study; plots/ gets the sheet.
      summary: of `read_summary`.

    Returns:
      The figure; nothing where there are no reconstructions.
    """
    rows: dict[str, np.ndarray] = {}
    for arm, about in summary["arms"].items():
        stage = folder / "reconstructions" / about["stage"]
        if not about["stage"] or not (stage / "reconstructions.png").exists():
            continue
        rows.setdefault("images", read_image(stage / "originals.png"))
        rows[arm] = read_image(stage / "reconstructions.png")
    if not rows:
        return []
    side = summary["study"]["image_size"]
    images = np.concatenate([_cut(row, side) for row in rows.values()])
    sheet = png.grid(
        images, len(images) // len(rows), [*rows], enlarge=_enlargement(side)
    )
    text = "Held-out images, and what each first stage makes of them."
    return [_sheet(folder, "reconstructions", sheet, text)]


def _cut(row: np.ndarray, side: int) -> np.ndarray:
    """Cuts [side, N * side, 3] into [N, side, side, 3]."""
    return row.reshape(side, -1, side, 3).swapaxes(0, 1)


def of_samples(folder: epath.Path, summary: Row, rows: list[Row]) -> list[page.Html]:
    """Makes the sheets of samples: along the budget, and at its end.

    Args:
      folder: of the study; plots/ gets the sheets.
      summary: of `read_summary`.
      rows: of `results`.

    Returns:
      The figures, of the arms that are finished.
    """
    study = summary["study"]
    seed, usual = study["seeds"][0], study["num_steps"]
    by_arm: dict[str, list[list[np.ndarray]]] = {}
    for arm in summary["arms"]:
        points = [
            _samples(folder / row["folder"] / "images", study["num_shown"])
            for row in rows
            if (row["arm"], row["seed"], row["num_steps"]) == (arm, seed, usual)
        ]
        if len(points) == study["evaluate_at"] and all(points):
            by_arm[arm] = points
    if not by_arm:
        return []
    enlarge = _enlargement(study["image_size"])
    count = study["evaluate_at"]
    along = [image[k] for points in by_arm.values() for k in (0, 1) for image in points]
    names = [label for arm in by_arm for label in (arm, "")]
    sheet = png.grid(np.stack(along), count, names, enlarge=enlarge)
    ends = np.stack([image for points in by_arm.values() for image in points[-1]])
    last = png.grid(ends, len(ends) // len(by_arm), [*by_arm], enlarge=enlarge)
    return [
        page.heading("Samples"),
        _sheet(
            folder,
            "samples_over_training",
            sheet,
            f"Two samples of every arm after 1/{count} to {count}/{count} of the "
            "budget, from left to right; the noise of a row is the same.",
        ),
        _sheet(
            folder,
            "samples",
            last,
            "Samples at the end of the budget, an arm a row; not chosen: the first "
            "seeds.",
        ),
    ]


def _samples(folder: epath.Path, count: int) -> list[np.ndarray]:
    return [read_image(path) for path in sorted(folder.glob("[0-9]*.png"))[:count]]


def _enlargement(side: int) -> int:
    return max(1, -(-LEAST_SIDE // side))


def _sheet(folder: epath.Path, name: str, sheet: np.ndarray, text: str) -> page.Html:
    """Writes a sheet of pictures, and makes the figure of it."""
    png.save_png(folder / "plots" / f"{name}.png", sheet)
    return page.picture(sheet, text)
