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
from collections.abc import Iterator
from typing import Any

# They log errors that they also raise.
QUIET = ("fsspec", "gcsfs", "google.auth", "s3fs")
# Characters of a word in an error: paths of people are shorter.
MAX_WORD = 500
_LONG_WORD = re.compile(rf"\S{{{MAX_WORD + 1},}}")


class OutputLost(OSError):
    """Raised when standard output cannot be written; the message is a sentence."""


class _Output:
    """A stream of the process whose errors name it, or are left out.

    Of an error in standard output the result is lost, so the command must fail; one in
    the stream of messages must not end the work that they are about.
    """

    def __init__(self, stream: Any, is_result: bool):
        self._stream, self._is_result = stream, is_result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes a text, and returns its length."""
        with self._naming_errors():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Writes what the stream has kept."""
        with self._naming_errors():
            self._stream.flush()

    @contextlib.contextmanager
    def _naming_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # What is left in the buffer would fail once more when Python ends.
            with contextlib.suppress(OSError):
                nothing = os.open(os.devnull, os.O_RDWR)
                os.dup2(nothing, self._stream.fileno())
                os.close(nothing)
            if self._is_result:
                raise OutputLost(
                    f"standard output cannot be written: {error.strerror}; free space "
                    "there, or send it to another file."
                ) from error


@contextlib.contextmanager
def checked_streams() -> Iterator[None]:
    """Names standard output in its errors, and leaves out those of standard error.

    Raises:
      OutputLost: what the command printed did not arrive; BrokenPipeError is its cause
        where the reader (`head`) has ended.
    """
    _replace_closed()
    streams = {"stdout": sys.stdout, "stderr": sys.stderr}
    try:
        # Others are of a test or a notebook.
        for name in streams.keys() if sys.stdout is sys.__stdout__ else ():
            setattr(sys, name, _Output(streams[name], name == "stdout"))
        yield
        sys.stdout.flush()
    finally:
        for name, stream in streams.items():
            setattr(sys, name, stream)


def set_up_output() -> None:
    """Logs to stderr, and escapes characters that the terminal cannot show."""
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
