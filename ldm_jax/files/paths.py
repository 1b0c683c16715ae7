# SPDX-License-Identifier: Apache-2.0
"""Handles paths from users: `~`, URLs of object stores, names that leave a folder."""

import contextlib
import functools
import os
import pathlib
import re

from etils import epath

PathLike = str | os.PathLike[str]

# Object stores that `epath` reaches, with the extra `gcs` for gs://.
STORES = ("gs://", "s3://", "az://")
# Characters of a name that a message repeats: paths of people are shorter.
MAX_PRINTED = 500
# "~" and "~user" at the start of each of several paths.
_HOMES = re.compile(r"(?:(?<=,)|(?<=, )|^)~[^/,\s]*(?=/|,|$)")
# Also "gs:/bucket", which is what pathlib makes of a URL.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
# A URL within a local path: "runs/gs://bucket", or what pathlib makes of it.
_MIXED = re.compile(r"/(?:gs|s3|az):/")


def is_remote(path: PathLike) -> bool:
    """Returns whether a path is a URL (gs://...)."""
    return _URL.match(_text(path)) is not None


def _text(path: PathLike) -> str:
    """Returns a path as text.

    Raises:
      TypeError: it is something else than a text or a path of texts.
    """
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise TypeError(f"a path must be a text or a pathlib.Path: got {text!r:.80}.")
    return text


def expand(path: PathLike) -> str:
    """Expands `~` and `~user` at the start of a path; a URL is unchanged.

    Raises:
      ValueError: there is no such user; a URL was joined to a local path.
    """
    text = _text(path)
    if is_remote(text):
        return text
    if _MIXED.search(text):
        raise ValueError(
            f"a path must be local or a URL: got {printable(text)}, a URL within a "
            "local path; give the URL alone."
        )
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise ValueError(
            f"{printable(text)} begins with a user who has no home directory here; "
            f"write the path out, or ./{printable(text)} for a file of this name."
        )
    return expanded


def cache_directory() -> pathlib.Path:
    """Returns the folder of what can be computed again: ~/.cache/ldm_jax, or the same
    under $XDG_CACHE_HOME. It may not exist."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(base) / "ldm_jax"


def is_unicode(path: PathLike) -> bool:
    """Returns whether a path can be written as text: some names are other bytes."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def expand_in(text: str) -> str:
    """Expands `~` in a text that may name paths, several separated by commas.

    For flags and config fields, whose meaning is known only where they are used: a text
    that is not such a path stays as it is.
    """
    return _HOMES.sub(lambda match: os.path.expanduser(match[0]), text)


def listed_paths(text: PathLike) -> list[str]:
    """Splits a list of paths or names at its commas.

    A file or folder that exists is one path, whatever is in its name.
    """
    text = _text(text)
    whole = expand(text)
    if not is_remote(whole) and os.path.exists(whole):
        return [text]
    return [part.strip() for part in text.split(",")]


def resolve(path: PathLike) -> epath.Path:
    """Makes a path absolute, with `~` expanded; a URL is unchanged.

    Raises:
      ValueError: a URL of another kind than STORES, or a relative path in a directory
        that was deleted.
    """
    text = expand(path)
    if is_remote(text):
        if not text.startswith(STORES):
            raise ValueError(
                f"a URL must begin with {', '.join(STORES)}: got {printable(text)}; "
                "give one of these (as text: pathlib drops a slash), or a local path."
            )
        _forget_listings()
        return epath.Path(text)
    try:
        return epath.Path(pathlib.Path(text).absolute())
    except FileNotFoundError as error:
        raise ValueError(
            f"{printable(text)} is relative to the current directory, which was "
            "deleted; change to another one (cd), or give an absolute path."
        ) from error


@functools.cache
def _forget_listings() -> None:
    """Turns off the caches of listings of `fsspec`, which never expire.

    Other processes write objects too: a cached listing would not show them.
    """
    with contextlib.suppress(ImportError):  # named where a URL is used
        from fsspec.config import conf

        for scheme in ("gcs", "gs", "s3"):
            options = conf.setdefault(scheme, {})
            options.setdefault("use_listings_cache", False)


def local(path: PathLike, what: str = "this") -> pathlib.Path:
    """Expands `~` in a path that must be on a file system.

    Args:
      path: as the user wrote it.
      what: names the path in the error: "the output of an export".

    Raises:
      ValueError: a URL.
    """
    if is_remote(path):
        raise ValueError(
            f"{what} must be on a file system: got {printable(path)}; write to a local "
            "disk or a mounted bucket, then copy."
        )
    return pathlib.Path(expand(path))


def inside(root: PathLike, name: str) -> pathlib.Path:
    """Joins a folder and an untrusted name, which must not leave the folder.

    Raises:
      ValueError: the name is absolute, or leads out of `root` (by "..", or by a link).
    """
    folder = pathlib.Path(root).expanduser().resolve()
    path = (folder / name).resolve()
    if not path.is_relative_to(folder):
        raise ValueError(
            f"a file of {folder} must be inside of it: got {printable(name)}."
        )
    return folder / name


def printable(name: PathLike) -> str:
    r"""Escapes control characters and line breaks for printing on a terminal.

    Bytes that are no UTF-8 (surrogates, as `os.fsdecode` makes them) are escaped too.
    A name of more than MAX_PRINTED characters is shortened.
    """
    return _escaped(shorten_middle(os.fspath(name), MAX_PRINTED))


def printable_lines(text: str) -> str:
    """Escapes control characters in a text of several lines."""
    return "\n".join(map(_escaped, text.split("\n")))


def shorten_middle(text: str, length: int) -> str:
    """Shortens a text to `length` characters, of which both ends are kept."""
    if len(text) <= length:
        return text
    end = (length - 3) // 2
    return f"{text[: length - 3 - end]}...{text[-end:]}"


def _escaped(text: str) -> str:
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )
