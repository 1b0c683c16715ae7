# SPDX-License-Identifier: Apache-2.0
"""Types that check the values of flags, and the function that adds a command."""

import argparse
import math
from collections.abc import Callable
from typing import Any, NoReturn

from ldm_jax.cli.parser import CommandParser, brief

# Of an image to sample: 16 times those of 4096x4096.
MAX_PIXELS = 2**28
# Of all whole numbers but seeds: JAX counts in 32 bits, of which one is the sign.
MAX_WHOLE = 2**31 - 1


def add_command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace, list[str]], None] | None,
    summary: str,
    *,
    details: str = "",
    writes: str = "",
    examples: str = "",
    uses_devices: bool = True,
) -> CommandParser:
    """Adds a command.

    Args:
      commands: of `argparse.ArgumentParser.add_subparsers`.
      name: as it is typed.
      run: (args, overrides) -> None; None for a command with subcommands.
      summary: one sentence, in the list of commands and at the top of the help page.
      details: paragraphs below the summary.
      writes: the files that it writes; lines below the flags.
      examples: lines at the end of the page.
      uses_devices: whether JAX runs here; otherwise devices are not touched.
    """
    sections = {"output": writes, "examples": examples}
    command = commands.add_parser(
        name,
        help=summary,
        description=f"{summary}\n{details}" if details else summary,
        epilog="\n".join(
            "\n".join([f"{title}:", text.strip("\n"), ""])
            for title, text in sections.items()
            if text
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run, uses_devices=uses_devices)
    return command


def add_batch_size(command: argparse.ArgumentParser, may_fit: bool = False) -> None:
    """Adds `--batch-size`, as every command that runs a network over images has it.

    Args:
      command: gets the flag.
      may_fit: whether "auto" is a value, which is read as None: what fits.
    """
    auto = "; auto: as many as the memory holds, up to 64 a device" if may_fit else ""
    command.add_argument(
        "--batch-size",
        type=count_or_auto if may_fit else count,
        default=64,
        help=f"images per batch{auto}; default: 64",
    )


def echo(text: object) -> None:
    """Prints a line or more; control characters, as of file names, are escaped."""
    from ldm_jax.files.paths import printable_lines

    print(printable_lines(str(text)), flush=True)


def whole(text: str) -> int:
    """Reads a whole number."""
    value = _read(int, text)
    if value is None:
        _refuse("a whole number", text)
    if abs(value) > MAX_WHOLE:
        _refuse(f"a whole number from {-MAX_WHOLE} to {MAX_WHOLE}", text)
    return value


def finite_number(text: str) -> float:
    """Reads a finite number."""
    value = _read(float, text)
    if value is None or not math.isfinite(value):
        _refuse("a finite number", text)
    return value


def count(text: str) -> int:
    """Reads a whole number from 1 on."""
    value = _read(int, text) if text.isdecimal() else 0
    if not value:
        _refuse("a whole number of 1 or more", text)
    if value > MAX_WHOLE:
        _refuse(f"a whole number of at most {MAX_WHOLE}", text)
    return value


def count_or_auto(text: str) -> int | None:
    """Reads a whole number from 1 on, or "auto" as None."""
    if text == "auto":
        return None
    if not text.isdecimal():
        _refuse('"auto", or a whole number of 1 or more', text)
    return count(text)


def counts(text: str) -> tuple[int, ...]:
    """Reads whole numbers from 1 on, separated by commas."""
    try:
        return tuple(count(part.strip()) for part in text.split(","))
    except argparse.ArgumentTypeError:
        rule = f"whole numbers from 1 to {MAX_WHOLE}, separated by commas"
        _refuse(rule, text, "4,6,2")


def seed(text: str) -> int:
    """Reads the seed of an image."""
    if not text.isdecimal() or len(text) > 10 or int(text) >= 2**32:
        _refuse(f"a whole number from 0 to {2**32 - 1}", text)
    return int(text)


def port(text: str) -> int:
    """Reads the number of a network port; 0 lets the system choose one."""
    if not text.isdecimal() or len(text) > 5 or int(text) >= 2**16:
        _refuse(f"a whole number from 0 to {2**16 - 1}", text)
    return int(text)


def _read(kind: Callable[[str], Any], text: str) -> Any:
    """Reads a number; None where the text is none, or has thousands of digits."""
    try:
        return kind(text) if len(text) <= 1000 else None
    except ValueError:
        return None


def _refuse(rule: str, text: str, example: str = "") -> NoReturn:
    """Raises the error of a value, which is shortened in it."""
    end = f"; {example}, say." if example else "."
    raise argparse.ArgumentTypeError(f"must be {rule}: got '{brief(text)}'{end}")


def size(text: str) -> tuple[int, int]:
    """Reads HEIGHTxWIDTH, or the side of a square."""
    height, _, width = text.partition("x")
    try:
        sides = count(height), count(width or height)
    except argparse.ArgumentTypeError:
        _refuse("HEIGHTxWIDTH, or a side", text, "256x512")
    if sides[0] * sides[1] > MAX_PIXELS:
        _refuse(f"at most {MAX_PIXELS:,} pixels together", text)
    return sides


def share(text: str) -> tuple[float, float]:
    """Reads LOW,HIGH, numbers from 0 to 1."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = 1.0, 0.0
    if not 0 <= low <= high <= 1:
        _refuse("LOW,HIGH from 0 to 1", text, "0.4,0.5")
    return low, high


def interval(text: str) -> tuple[int, int]:
    """Reads FIRST,LAST, whole numbers from 0 on."""
    first, _, last = text.partition(",")
    fit = all(part.isdecimal() and len(part) < 10 for part in (first, last))
    if not fit or int(first) > int(last):
        _refuse("FIRST,LAST, steps t in rising order", text, "200,800")
    return int(first), int(last)
