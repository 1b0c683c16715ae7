# SPDX-License-Identifier: Apache-2.0
"""Writes the results of an evaluation as Markdown, with the paper's for comparison."""

from collections.abc import Mapping
from typing import Any

from ldm_jax.metrics.paper import find_row

HIGHER_IS_BETTER = {
    *("is", "precision", "recall", "density", "coverage", "psnr", "ssim", "ms_ssim"),
    *("clip_score", "codebook_usage", "perplexity"),
    *("condition_gap", "null_gap"),
}


def markdown(result: Mapping[str, Any]) -> str:
    """Writes one evaluation as a page of Markdown.

    Args:
      result: the result of `commands.evaluate`: "figures" {metric: {"label", "value",
        "spread"}}, "num_images", "settings", "warnings", "row" (of the paper, or None)
        and, for samples, "throughput".

    Returns:
      The page: a table of metrics, the settings, and all warnings.
    """
    paper = find_row(result["row"]).figures if result["row"] else {}
    lines = ["| metric | | ours | +- |" + (" paper |" if paper else "")]
    lines.append("|---|---|---|---|" + ("---|" if paper else ""))
    for name, figure in result["figures"].items():
        spread = figure["spread"]
        cells = [
            figure["label"],
            "higher is better"
            if name.split("@")[0] in HIGHER_IS_BETTER
            else "lower is better",
            number(figure["value"]),
            "" if spread is None else number(spread),
        ]
        if paper:
            cells.append(number(paper[name]) if name in paper else "")
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"{result['num_images']} images; +- is {SPREADS}"]
    if result.get("throughput"):
        lines.append(f"* speed: {_speed(result['throughput'])}")
    lines += [f"* {name}: {value}" for name, value in result["settings"].items()]
    if paper:
        row = find_row(result["row"])
        lines.append(f"* paper: {result['row']}, {row.where} {row.steps}".rstrip())
    lines += [f"* WARNING: {text}" for text in result["warnings"]]
    return "\n".join(lines) + "\n"


def _speed(throughput: Mapping[str, Any]) -> str:
    """Formats a throughput as text."""
    return (
        f"{number(throughput['images_per_second'])} images/s in batches of "
        f"{throughput['batch_size']} on {throughput['num_devices']} "
        f"{throughput['device']}"
    )


SPREADS = (
    "the standard deviation over splits (IS), subsets (KID) or images (PSNR, SSIM, "
    "LPIPS), the jackknife's standard error of Frechet distances, the standard error "
    "of what is measured with a condition.\n"
)


def number(value: float) -> str:
    """Formats a number with four significant digits."""
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
