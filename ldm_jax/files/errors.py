# SPDX-License-Identifier: Apache-2.0
"""Turns all errors that libraries raise about the bytes of a file into one type.

Parsers raise many types (zlib.error, struct.error, RecursionError, a bare Exception in
Pillow). `reading` turns all of them into `UnreadableFile`, which names the file;
`naming` does so where values that were read are used.
"""

import contextlib
import difflib
import errno
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from ldm_jax.files.paths import (
    PathLike,
    is_remote,
    printable,
    printable_lines,
    shorten_middle,
)

# What `shown` prints of a value: characters in all, entries and depth of containers.
MAX_SHOWN, MAX_ENTRIES, MAX_DEPTH = 200, 6, 3
# Characters of a line of a list: a name and its description.
MAX_LINE = 300
# Names among which the one nearest to an unknown name is looked for.
MAX_COMPARED = 10_000
# Characters of the message of an error.
MAX_MESSAGE = 3000


class UnreadableFile(ValueError):
    """Raised for a file that cannot be read as expected; the message names it.

    What a terminal would obey is escaped in the message, and its length is bounded.
    """

    def __init__(self, message: str):
        super().__init__(cut(printable_lines(message), MAX_MESSAGE))


class MissingFile(UnreadableFile, FileNotFoundError):
    """Raised for a file that does not exist."""


@contextlib.contextmanager
def reading(
    path: PathLike,
    place: str = "",
    advice: str = "",
    data: bytes | None = None,
    rule: str = "must be readable",
) -> Iterator[None]:
    """Turns errors about the contents of a file into `UnreadableFile`.

    Keep the block small: an error of ours within it would count as damage.

    Args:
      path: of the file.
      place: where in the file: "line 3", "member a/b.jpg".
      advice: what to do about it; a sentence.
      data: the contents, or the beginning of them, where they are in memory.
      rule: what holds for such files, or what went wrong.

    Raises:
      UnreadableFile: names the file, and says so if it is not such a file at all: a Git
        LFS pointer, an HTML page, empty.
      OSError: the machine failed (no permission, an input/output error).
      MemoryError: likewise; bounds are checked before memory is taken.
    """
    try:
        yield
    except (UnreadableFile, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _FAILURES:
            raise
        where = f"{printable(path)}, {place}" if place else printable(path)
        other = impostor(path) if data is None else impostor_bytes(data[:512])
        reason = other or f"got {described(error)}"
        advice = advice or "It is damaged, cut off or of another kind: get it again."
        reason = reason.rstrip(".")
        raise UnreadableFile(f"{where} {rule}: {reason}. {advice}") from error


@contextlib.contextmanager
def naming(
    path: PathLike, rule: str = "has values that cannot be used"
) -> Iterator[None]:
    """Names the file in whatever its values provoke after they were read.

    A ValueError in the block is a sentence of ours about a value, and gets the path;
    anything else (a KeyError, a TypeError) is turned as by `reading`.

    Args:
      path: of the file that holds the values.
      rule: what went wrong, for errors that are not sentences.

    Raises:
      UnreadableFile: names the file; its length is bounded.
    """
    with reading(path, data=b"-", rule=rule):
        try:
            yield
        except ValueError as error:
            text, name = str(error), printable(path)
            if isinstance(error, UnreadableFile) and name in text:
                raise
            text = text if name in text else f"{name}: {text}"
            kind = type(error) if isinstance(error, UnreadableFile) else UnreadableFile
            raise kind(text) from error


def impostor(path: PathLike) -> str:
    """Recognizes files that failed downloads often leave, such as HTML; or "".

    Returns:
      "it is a Git LFS pointer ...", "it is an HTML page ...", "it is empty ..." or "".
    """
    if is_remote(path):
        return ""
    try:
        with open(path, "rb") as file:
            start = file.read(512)
    except OSError:
        return ""
    return impostor_bytes(start)


def impostor_bytes(start: bytes) -> str:
    """Recognizes a file by its first bytes, as `impostor` does."""
    if not start:
        return "it is empty (0 bytes); it was not downloaded"
    if start.startswith(LFS_POINTER):
        return "it is a Git LFS pointer, not the file itself; run `git lfs pull`"
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        return "it is an HTML page: a web site answered instead of sending the file"
    if text.startswith((b"<?xml", b"<error")) and b"<error" in text:
        return "it is an error message of an object store, not the file"
    return ""


LFS_POINTER = b"version https://git-lfs.github.com/spec/"

# Errors that are the machine's, whatever the file holds.
_FAILURES = {
    errno.EACCES,
    errno.EBUSY,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOENT,
    errno.ENOMEM,
    errno.EPERM,
    errno.ESTALE,
    errno.ETIMEDOUT,
}


def described(error: BaseException) -> str:
    """Describes an error in a line of bounded length: its kind and its message."""
    message = printable(cut(" ".join(str(error).split())))
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def shown(value: Any) -> str:
    """Formats a value of an untrusted file, in at most MAX_SHOWN characters.

    `repr` of a nested value may take exponentially long (a tuple that holds one tuple
    twice, 40 times over), and that of a large integer is refused by Python.
    """
    return cut(_shown(value, MAX_DEPTH))


def lined(entries: Sequence[str], limit: int = 10) -> str:
    r"""Lists names with their descriptions, for the end of an error.

    Args:
      entries: each is put on a line of its own, escaped and shortened.
      limit: of lines; the last one counts the other entries.

    Returns:
      A line break before each: "\n  a\n  b"; "" without entries.
    """
    lines = [shorten_middle(printable(entry), MAX_LINE) for entry in entries[:limit]]
    if len(entries) > limit:
        lines.append(f"... and {len(entries) - limit:,} more")
    return "".join(f"\n  {line}" for line in lines)


def nearest_name(word: str, known: Iterable[str]) -> str:
    """Returns the end of a sentence about an unknown name.

    Args:
      word: the name; its first MAX_SHOWN characters are compared.
      known: names, of which the first MAX_COMPARED are compared.

    Returns:
      '; did you mean "..."?' with the nearest known name, or "." if none is near.
    """
    compared = list(itertools.islice(known, MAX_COMPARED))
    near = difflib.get_close_matches(word[:MAX_SHOWN], compared, 1)
    return f'; did you mean "{near[0]}"?' if near else "."


def cut(text: str, length: int = MAX_SHOWN) -> str:
    """Shortens a text to `length` characters."""
    return text if len(text) <= length else text[: length - 3] + "..."


def _shown(value: Any, depth: int) -> str:
    if isinstance(value, int):  # also bool
        return "a huge integer" if value.bit_length() > 256 else repr(value)
    if value is None or isinstance(value, float):
        return repr(value)
    if isinstance(value, str | bytes | bytearray):
        return repr(value[: MAX_SHOWN + 1])
    if isinstance(value, Mapping):
        entries = [
            f"{_shown(key, depth - 1)}: {_shown(entry, depth - 1)}"
            for key, entry in _first(value.items(), depth)
        ]
        return "{" + _listed(entries, len(value)) + "}"
    if isinstance(value, Sequence | AbstractSet):
        entries = [_shown(entry, depth - 1) for entry in _first(value, depth)]
        left, right = "()" if isinstance(value, tuple) else "[]"
        return left + _listed(entries, len(value)) + right
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"an array of {value.dtype} {value.shape}"
    return f"<{type(value).__name__}>"


def _first(entries, depth: int) -> list:
    return list(itertools.islice(entries, MAX_ENTRIES if depth > 0 else 0))


def _listed(entries: list[str], count: int) -> str:
    return ", ".join(entries + ["..."] * (count > len(entries)))


def is_out_of_memory(error: Exception) -> bool:
    """Returns whether the memory of a device, or of the host, was not enough."""
    is_device = type(error).__name__ == "JaxRuntimeError"
    is_full = is_device and "RESOURCE_EXHAUSTED" in str(error)
    return is_full or isinstance(error, MemoryError)
