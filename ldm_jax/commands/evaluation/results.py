# SPDX-License-Identifier: Apache-2.0
"""Writes what an evaluation measured: results.json and results.md."""

import pathlib
from collections.abc import Mapping
from typing import Any

from ldm_jax.commands.evaluation.request import Request
from ldm_jax.files.writing import write_json, write_text
from ldm_jax.metrics.paper import find_protocol
from ldm_jax.metrics.tables import markdown
from ldm_jax.parallel.hosts import is_main_process


def finish_results(
    measured: Mapping[str, Any],
    out: str,
    request: Request,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Adds the settings and warnings to what was measured, and writes it.

    Args:
      measured: "num_images", "warnings", "figures" and other results.
      out: directory of the results.
      request: what to measure; names the protocol and the paper's row.
      settings: how the images were made.

    Returns:
      The content of results.json.
    """
    settings = {
        **settings,
        "protocol": request.protocol or "chosen metrics",
        "reference": request.reference or "",
    }
    protocol = find_protocol(request.protocol) if request.protocol else None
    warnings = list(measured["warnings"])
    if protocol and protocol.num_images and request.num != protocol.num_images:
        warnings.append(
            f"{request.protocol} takes {protocol.num_images} images: these figures are "
            f"of {measured['num_images']}, so they cannot be compared with the paper's."
        )
    if protocol:
        settings["the protocol's reference"] = protocol.reference
    result = {
        **measured,
        "row": request.paper_row,
        "settings": settings,
        "warnings": warnings,
    }
    return write_results(result, out)


def write_results(result: dict[str, Any], out: str) -> dict[str, Any]:
    """Writes results.json and results.md into a directory; returns the result."""
    if is_main_process():
        folder = pathlib.Path(out)
        write_json(folder / "results.json", result)
        write_text(folder / "results.md", markdown(result))
    return result
