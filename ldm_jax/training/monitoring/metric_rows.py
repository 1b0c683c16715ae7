# SPDX-License-Identifier: Apache-2.0
"""Appends to files of rows (JSON lines), and truncates them when a run resumes."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldm_jax.files.writing import append_line, write_text


def append_row(path: str | Path, row: Mapping[str, Any]) -> None:
    """Adds a line; numbers that are not finite become null, as JSON has none."""
    safe = {
        name: None if isinstance(v, float) and not math.isfinite(v) else v
        for name, v in row.items()
    }
    append_line(path, json.dumps(safe))


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """Reads a file of rows; a line cut off by a kill is left out."""
    path = Path(path)
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def drop_rows(path: str | Path, last_step: int) -> None:
    """Drops the rows after `last_step`: those steps are repeated."""
    path = Path(path)
    if not path.exists():
        return
    kept = [row for row in read_rows(path) if row["step"] <= last_step]
    write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
