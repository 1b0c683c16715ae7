# SPDX-License-Identifier: Apache-2.0
"""Sets up what a command prints: warnings in a line, no traceback, names escaped."""

import contextlib
import logging
import os
import pathlib
import re
import signal
import sys
import threading

# They log errors that they also raise.
QUIET = ("fsspec", "gcsfs", "google.auth", "s3fs")
# Characters of a word in an error: paths of people are shorter.
MAX_WORD = 500
_LONG_WORD = re.compile(rf"\S{{{MAX_WORD + 1},}}")


def set_up_output() -> None:
    """Logs to stderr, and escapes characters that the terminal cannot show."""
    _replace_closed()
    handler = logging.StreamHandler()
    handler.setFormatter(_EscapingFormatter("%(message)s"))
    if not shows_tracebacks():
        handler.addFilter(_is_not_raised)
        sys.unraisablehook = _print_unraisable
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("ldm_jax").setLevel(logging.INFO)
    for package in QUIET:
        logging.getLogger(package).setLevel(logging.CRITICAL)
    with contextlib.suppress(AttributeError):  # replaced by a test or a notebook
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _replace_closed() -> None:
    """Connects closed streams (`2>&-`) to nothing.

    Otherwise the next files that are opened get their numbers, to which libraries
    write, and progress bars have nowhere to go.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def shows_tracebacks() -> bool:
    """Returns whether the user wants to see where errors were raised."""
    return bool(os.environ.get("LDM_JAX_TRACEBACK"))


def escape(text: str) -> str:
    """Escapes control characters, which file names may contain; line breaks stay.

    Words of more than MAX_WORD characters are shortened.
    """
    from ldm_jax.files.paths import printable_lines, shorten_middle

    escaped = printable_lines(text)
    return _LONG_WORD.sub(lambda word: shorten_middle(word[0], MAX_WORD), escaped)


class _EscapingFormatter(logging.Formatter):
    """Formats log messages without the control characters of file names."""

    def format(self, record: logging.LogRecord) -> str:
        return escape(super().format(record))


def _is_not_raised(record: logging.LogRecord) -> bool:
    """Returns False for an error of a thread of orbax, which logs and raises it.

    So the command ends with this error, and prints it as its last line.
    """
    is_of_orbax = {"orbax", "asyncio"} & {*pathlib.Path(record.pathname).parts}
    return not (is_of_orbax and record.exc_info)


def _print_unraisable(unraisable) -> None:
    """Prints an exception that had nowhere to go, but for those of tensorstore.

    When one of several arrays cannot be written, orbax raises that error and closes its
    event loop, where tensorstore then cannot report what became of the others. Ctrl-C
    during a callback of the garbage collector is repeated after it.
    """
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        # Once the callback has returned: before, it would be lost again.
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        return
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)
