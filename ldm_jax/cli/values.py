# SPDX-License-Identifier: Apache-2.0
"""What flags hold: counts, sizes, stretches of steps; argparse names the flag."""

import argparse


def count(text: str) -> int:
    """Reads a whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more: got {text}.")
    return int(text)


def size(text: str) -> tuple[int, int]:
    """Reads HEIGHTxWIDTH, or a side."""
    height, _, width = text.partition("x")
    try:
        return count(height), count(width or height)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(
            f"must be HEIGHTxWIDTH, or a side: got {text}; 256x512, say."
        ) from error


def interval(text: str) -> tuple[int, int]:
    """Reads FIRST,LAST, whole numbers from 0 on."""
    first, _, last = text.partition(",")
    if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise argparse.ArgumentTypeError(
            f"must be FIRST,LAST, steps t in rising order: got {text}; 200,800, say."
        )
    return int(first), int(last)
