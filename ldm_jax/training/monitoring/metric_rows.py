# SPDX-License-Identifier: Apache-2.0
"""Files of rows (JSON lines): appended to, cut back when a run resumes."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldm_jax.training.checkpoints.workdir import writing


def append_row(path: str | Path, row: Mapping[str, Any]) -> None:
    """Adds a line; numbers that are not finite become null, as JSON has none."""
    safe = {
        name: None if isinstance(v, float) and not math.isfinite(v) else v
        for name, v in row.items()
    }
    line = json.dumps(safe) + "\n"
    with writing("a row", path), open(path, "a") as lines:
        lines.write(line)


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
    """Drops the rows past `last_step`: those steps are done again."""
    path = Path(path)
    if not path.exists():
        return
    kept = [row for row in read_rows(path) if row["step"] <= last_step]
    part = path.with_name(path.name + ".part")
    part.write_text("".join(json.dumps(row) + "\n" for row in kept))
    part.replace(path)
