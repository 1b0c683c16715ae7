# SPDX-License-Identifier: Apache-2.0
"""Bounds of the counts that describe a network: checked before anything is built.

A config may come with an untrusted model, and listing ten million blocks takes hours.
"""

import numbers
from typing import Any

# Far above any published network: ADM has 3 blocks a level, SDXL 10 transformer layers.
MAX_CHANNELS, MAX_LEVELS, MAX_BLOCKS, MAX_DEPTH = 2**16, 16, 64, 128
MAX_CLASSES, MAX_CODES = 2**24, 2**24
MAX_DROPOUT = 0.99
# Of the others there may be none: no block, no attention.
POSITIVE = ("channels", "channel_mult", "in_channels", "out_channels")
# Those that need not be whole numbers.
FRACTIONS = ("channel_mult", "dropout")


def check_bounds(network: Any, **largest: float) -> None:
    """Checks fields of a network: counts, or tuples of at most MAX_LEVELS counts.

    Args:
      network: a linen module; a field that is None is not checked.
      **largest: name of a field -> the largest value that it may have.

    Raises:
      ValueError: a value is not a whole number (for FRACTIONS: a number) from 0, or
        from 1 for POSITIVE, to its largest; or a tuple is empty or too long.
    """
    name = type(network).__name__
    for field, bound in largest.items():
        value = getattr(network, field)
        entries = value if isinstance(value, tuple | list) else (value,)
        low = 1 if field in POSITIVE else 0
        if not entries:
            raise ValueError(
                f"{name}.{field}: there must be one level in {field} at least, got ()."
            )
        for entry in entries[: MAX_LEVELS + 1]:
            kind = numbers.Real if field in FRACTIONS else numbers.Integral
            is_count = isinstance(entry, kind) and not entry < low and entry <= bound
            if entry is not None and not is_count:
                raise ValueError(
                    f"{name}.{field} must be in {low}..{bound}: got {entry!r:.80}."
                )
        if len(entries) > MAX_LEVELS:
            raise ValueError(
                f"{name}.{field} may have {MAX_LEVELS} levels: got {len(entries)}."
            )
