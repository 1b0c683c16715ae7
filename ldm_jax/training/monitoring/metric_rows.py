# SPDX-License-Identifier: Apache-2.0
"""Appends to files of rows (JSON lines), and truncates them when a run resumes.

A line that is not a row, damaged or cut off by a kill, never ends a run: it is left out
when the file is read, with a warning, and stays in the file.
"""

import functools
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from ldm_jax.files.errors import UnreadableFile
from ldm_jax.files.formats.structured import parse_json
from ldm_jax.files.paths import PathLike, resolve
from ldm_jax.files.reading import opened
from ldm_jax.files.writing import append_line, write_bytes

Row = dict[str, Any]


def formatted(value: Any) -> str:
    """Formats the value of a row, as a number of four digits."""
    return f"{value:.4g}" if _is_number(value) else "nan" if value is None else value


def append_row(path: str | Path, row: Mapping[str, Any]) -> None:
    """Adds a line; numbers that are not finite become null, as JSON has none."""
    safe = {
        name: None if isinstance(v, float) and not math.isfinite(v) else v
        for name, v in row.items()
    }
    append_line(path, json.dumps(safe))


def read_rows(path: PathLike, numbers: Sequence[str] = ("step",)) -> list[Row]:
    """Reads the rows of a file; a number that was not finite is None.

    Args:
      path: also of a store; a file that is missing has no rows.
      numbers: names that every row has, with numbers.

    Raises:
      UnreadableFile: it is not a regular file.
    """
    return [row for _, row in _lines(resolve(path), numbers) if row is not None]


def drop_rows(path: str | Path, last_step: int) -> None:
    """Drops the rows after `last_step`: those steps are repeated."""
    path = Path(path)
    if not path.exists():
        return
    kept = (
        line
        for line, row in _lines(path, ("step",))
        if row is None or row["step"] <= last_step
    )
    write_bytes(path, b"".join(line.rstrip(b"\r\n") + b"\n" for line in kept))


def _lines(
    path: PathLike, numbers: Sequence[str]
) -> Iterator[tuple[bytes, Row | None]]:
    """Yields the lines of a file and their rows, None for a line that is not a row.

    A last line that a kill cut off is passed over.
    """
    if not resolve(path).exists():
        return
    with opened(path) as file:
        for number, line in enumerate(file, start=1):
            row, is_cut = _row(line, path, numbers), not line.endswith(b"\n")
            if row is None and not is_cut and line.strip():
                _warn(os.fspath(path), number)
            if line.strip() and not (row is None and is_cut):
                yield line, row


def _row(line: bytes, path: PathLike, numbers: Sequence[str]) -> Row | None:
    """Parses a line; returns None if it is not a row."""
    try:
        row = parse_json(line, path)
    except UnreadableFile:
        return None
    has_numbers = all(_is_number(row.get(name)) for name in numbers)
    return row if has_numbers and all(map(_is_value, row.values())) else None


def _is_value(value: Any) -> bool:
    """Returns whether a row may hold a value: a number, a text, or numbers by name."""
    if isinstance(value, dict):
        return all(map(_is_number, value.values()))
    return value is None or isinstance(value, str) or _is_number(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


@functools.cache  # once a process
def _warn(path: str, number: int) -> None:
    logging.warning("%s, line %d is damaged, no row: it is left out.", path, number)
