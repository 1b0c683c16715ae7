# SPDX-License-Identifier: Apache-2.0
"""The report of `ldm-jax quickstart --images`: one page with pictures and figures."""

import pathlib
from typing import TYPE_CHECKING

from ldm_jax.files.formats.structured import read_json
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
from ldm_jax.training.monitoring.page import run_parts

if TYPE_CHECKING:
    from ldm_jax.commands.photos.run import PhotosResult

DISTANCES = (
    "Distances are of pixels, so they need no feature network: the Frechet distance of "
    "the mean colours of 4x4 parts to those of the training pictures, and the mean "
    "difference to the nearest training picture. Held-out pictures show what a perfect "
    "model would have; samples much nearer than they are copies."
)


def write_photos_page(root: pathlib.Path, result: "PhotosResult") -> None:
    """Writes report.html of a finished quickstart.

    Args:
      root: its directory, with samples.png, reconstructions.png and the two runs.
      result: what was chosen and measured.
    """
    parts = [
        heading("Samples"),
        picture(root / "samples.png", "guided samples, a row for each class or prompt"),
        heading("Reconstructions"),
        picture(root / "reconstructions.png", "pictures next to their reconstructions"),
        heading("Figures"),
        pairs(result.figures),
        paragraph(DISTANCES),
        bars("minutes of each step, the last time it ran", result.minutes),
        heading("Pictures"),
        pairs(result.folder),
        heading("Choices"),
        pairs(result.chosen),
        folded("config.py", code((root / "config.py").read_text())),
        heading("Next"),
        code("\n".join(result.next)),
        *_run(root / "first_stage", "First stage"),
        *_run(root / "diffusion", "Denoiser"),
    ]
    write_page(root / "report.html", f"Quickstart: {result.folder['folder']}", parts)


def _run(folder: pathlib.Path, title: str) -> list[Html]:
    """Makes the section of one run."""
    settings = read_json(folder / "config.json")
    return [folded(title, *run_parts(folder, settings))]
