# SPDX-License-Identifier: Apache-2.0
"""Checks and locks the place of a command's result before any work is done.

Process 0 checks and locks; if it fails, every process ends. A result on an object store
is written to a local disk and copied at the end, see `files.stores`.
"""

import contextlib
import functools
import inspect
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence

import jax

from ldm_jax.files.lock import Lock, lock_directory, lock_output
from ldm_jax.files.outputs import (
    check_absent,
    check_holds_checkpoints,
    check_writable,
    check_writable_file,
)
from ldm_jax.files.paths import is_remote, local, printable
from ldm_jax.files.stores import staging
from ldm_jax.parallel.hosts import in_main_process

PathLike = str | os.PathLike[str]


@contextlib.contextmanager
def output_file(
    out: PathLike, flag: str = "--out", *, suffix: str, mark: bytes
) -> Iterator[pathlib.Path]:
    """Reserves the file that a command writes; an earlier result will be replaced.

    Args:
      out: as the user wrote it; a URL must be new.
      flag: names it in errors.
      suffix: of the file: ".png".
      mark: of `check_writable_file`, tells earlier results from other files.

    Yields:
      Its path; for a URL, that of the local file which is copied there.

    Raises:
      ValueError: a URL of another kind than STORES, or one that exists; another suffix;
        the file exists and is no earlier result.
      OSError: it cannot be written.
      Unusable: another process is about to write it.
    """
    path, copy = _place(out)

    def take() -> Lock:
        if path.suffix != suffix:
            raise ValueError(
                f"{flag} must end in {suffix}: got {printable(out)}; name a {suffix} "
                "file."
            )
        _check_store(out, flag)
        check_writable_file(path, flag, mark)
        return lock_output(path, flag)

    with _held(take):
        yield path
        copy()


@contextlib.contextmanager
def output_directory(out: PathLike, flag: str = "--out") -> Iterator[pathlib.Path]:
    """Reserves a directory that a command adds to; arguments and errors as above.

    If it is made for this and stays empty, it is removed again.
    """
    path, copy = _place(out)

    def take() -> Lock:
        _check_store(out, flag)
        check_writable(path, flag)
        return lock_directory(path, f"choose another {flag}")

    with _held(take):
        yield path
        copy()


@contextlib.contextmanager
def output_directories(
    outs: Sequence[PathLike], flag: str = "--out"
) -> Iterator[list[contextlib.AbstractContextManager[pathlib.Path]]]:
    """Reserves several directories; arguments and errors as above.

    Yields:
      For each a context that yields its path. It is released, and copied to a store,
      at the end of its context.
    """
    with contextlib.ExitStack() as stack:
        places = []
        for out in outs:
            place = stack.enter_context(contextlib.ExitStack())
            path = place.enter_context(output_directory(out, flag))
            places.append(_released_after(place, path))
        yield places


@contextlib.contextmanager
def _released_after(
    place: contextlib.ExitStack, path: pathlib.Path
) -> Iterator[pathlib.Path]:
    with place:
        yield path


@contextlib.contextmanager
def shared_directory(out: PathLike, flag: str = "--out") -> Iterator[PathLike]:
    """Reserves a directory that all processes write into, each its own files.

    Unlike `output_directory`, one on a store is written there by every process, and an
    earlier run's part of it stays. It may hold a model, as latents do.

    Yields:
      The directory; a URL as it was given.

    Raises:
      ValueError: a URL of another store than gs://.
    """
    if not is_remote(out):
        with output_directory(out, flag) as path:
            yield path
        return
    check_holds_checkpoints(out, flag)
    with _held(lambda: check_writable(out, flag)):
        yield os.fspath(out).rstrip("/")


def _place(out: PathLike) -> tuple[pathlib.Path, Callable[[], None]]:
    """Returns (the local path to write to, a function that copies the result)."""
    if not is_remote(out):
        return local(out), lambda: None
    return staging.staging_of(out), functools.partial(staging.upload, out)


def _check_store(out: PathLike, flag: str) -> None:
    """Refuses a URL that cannot be written, or that exists.

    Also from several processes: each would have a part of the result on its own disk.
    """
    if is_remote(out):
        if jax.process_count() > 1:
            raise ValueError(
                f"{flag} must be a folder that all hosts see where there are several: "
                f"got {printable(out)}; mount the bucket, or use one process."
            )
        check_writable(out, flag)
        staging.check_new(out, flag)


@contextlib.contextmanager
def new_output(*outs: PathLike, flag: str = "--out") -> Iterator[None]:
    """Reserves the places of new files, or of a new folder, which may be remote.

    Raises:
      ValueError: there is something of this name.
      OSError, Unusable: as above.
    """

    def take() -> Lock | None:
        for out in outs:
            check_absent(out, flag)
        check_writable(os.path.dirname(os.fspath(outs[0])), flag)
        return None if is_remote(outs[0]) else lock_output(outs[0], flag)

    with _held(take):
        yield


@contextlib.contextmanager
def staged(
    out: PathLike, *others: PathLike, flag: str = "--out"
) -> Iterator[pathlib.Path]:
    """Yields the path for a new file or folder: `out`, or a local one for a URL.

    The local one is copied, with files next to it, when the block ends.

    Args:
      out: of the result; a local one is checked by `new_output`.
      others: results next to it that must not exist either.
      flag: names it in errors.

    Raises:
      ValueError: a URL of another kind than STORES, or one that exists.
      OSError: it cannot be written.
    """
    if not is_remote(out):
        yield local(out)
        return

    def take() -> None:
        check_writable(out, flag)
        for path in (out, *others):
            check_absent(path, flag)

    with _held(take), staging.new_staging(out) as place:
        yield place


def reserves(place: Callable, argument: str = "out", flag: str = "--out") -> Callable:
    """Decorates a command, which then runs while the place of its result is reserved.

    Args:
      place: `output_file` or `output_directory`.
      argument: of the command, names the place; the command gets it with `~` expanded.
      flag: names it in errors.
    """

    def decorate(command: Callable) -> Callable:
        signature = inspect.signature(command)

        @functools.wraps(command)
        def run(*args, **kwargs):
            bound = signature.bind(*args, **kwargs)
            with place(bound.arguments[argument], flag) as path:
                bound.arguments[argument] = os.fspath(path)
                return command(*bound.args, **bound.kwargs)

        return run

    return decorate


@contextlib.contextmanager
def _held(take: Callable[[], Lock | None]) -> Iterator[None]:
    lock = in_main_process(take)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()
