# SPDX-License-Identifier: Apache-2.0
"""Describes in a few lines how two runs differ, before any array is read."""

import jax

from ldm_jax.files.paths import printable
from ldm_jax.parallel.sharding import path_name
from ldm_jax.types import PyTree

MAX_LINES = 15


def check_structure(actual: PyTree, expected: PyTree, where: str) -> None:
    """Compares paths, shapes and dtypes, before anything is read.

    orbax answers a wrong shape with thousands of lines, and casts a wrong dtype.
    """

    def flat(tree):
        leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
        return {path_name(p): f"{x.dtype}{list(x.shape)}" for p, x in leaves}

    lines = [line for _, line in differences(flat(actual), flat(expected))]
    if lines:
        raise ValueError(
            f"the checkpoint in {where} is of another model:\n{shorten(lines)}\n"
            "Use the settings it was made with, or another workdir."
        )


def differences(old: PyTree, new: PyTree, prefix: str = "") -> list[tuple[str, str]]:
    """Lists (dotted name, "  name: old -> new") of what differs in nested dicts."""
    lines = []
    for key in sorted({*old, *new}, key=str):
        name = f"{prefix}{key}"
        a, b = old.get(key, "(absent)"), new.get(key, "(absent)")
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(a, b, name + ".")
        elif a != b:
            lines.append((name, printable(f"  {name}: {a} -> {b}")))
    return lines


def shorten(lines: list[str]) -> str:
    """Joins lines; with the text around them at most MAX_LINES."""
    if len(lines) <= MAX_LINES - 3:
        return "\n".join(lines)
    rest = len(lines) - (MAX_LINES - 4)
    return "\n".join([*lines[: MAX_LINES - 4], f"  ... and {rest} more"])
