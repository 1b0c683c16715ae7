# SPDX-License-Identifier: Apache-2.0
"""Keeps compiled programs on disk, so that a repeated command need not compile."""

import logging
import os
import pathlib

import filelock
import jax

from ldm_jax.files.moving import remove
from ldm_jax.files.paths import cache_directory

# Programs of a large model take tens of megabytes; the least recently used are deleted.
MAX_BYTES = 4 * 2**30
# A start runs a hundred small programs, most of them draws of parameters: with JAX's
# limit of 1 s they were compiled at every start (digits: 18 s instead of 7 s).
MIN_COMPILE_SECONDS = 0.02
_MIN_VARIABLE = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
# JAX looks at every program when it writes one: 0.05 s with 1,000 of them.
MAX_PROGRAMS = 1000

# JAX's names: of its lock, of a program, and of the time when it was last used.
_LOCK, _PROGRAM, _LAST_USE = ".lockfile", "-cache", "-atime"


def keep_programs() -> None:
    """Makes JAX keep compiled programs in `cache_directory() / "programs"`.

    Changes nothing where JAX_COMPILATION_CACHE_DIR names another place, or
    JAX_ENABLE_COMPILATION_CACHE=0 turns it off. Programs that compile faster than
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS, by default MIN_COMPILE_SECONDS, are not
    kept. For commands: a library leaves this to the program that imports it. A folder
    that cannot be written is a warning.
    """
    if (
        jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
        or not jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
    ):
        return
    folder = cache_directory() / "programs"
    try:
        folder.mkdir(0o700, parents=True, exist_ok=True)
        _tidy(folder)
    except OSError as error:
        logging.getLogger(__name__).warning(
            "compiled programs are not kept: %s (%s); the next start compiles again. "
            "JAX_COMPILATION_CACHE_DIR names another folder for them.",
            *(folder, error.strerror or error),
        )
        return
    if _MIN_VARIABLE not in os.environ:
        jax.config.update(_MIN_VARIABLE.lower(), MIN_COMPILE_SECONDS)
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    jax.config.update("jax_compilation_cache_dir", str(folder))


def _tidy(folder: pathlib.Path) -> None:
    """Deletes programs that were not written whole, and all but the last used.

    A process was killed while it wrote them: JAX writes the time of use last, would
    read the rest as a damaged program at every start, and never write it again.
    """
    try:
        with filelock.FileLock(folder / _LOCK, timeout=0):
            whole = []
            for program in folder.glob(f"*{_PROGRAM}"):
                name = program.name.removesuffix(_PROGRAM)
                last_use = folder / f"{name}{_LAST_USE}"
                if last_use.exists():
                    whole.append((last_use.stat().st_mtime, last_use, program))
                else:
                    remove(program)
            for _, last_use, program in sorted(whole)[:-MAX_PROGRAMS]:
                remove(program)
                remove(last_use)
    except filelock.Timeout:
        pass  # another process reads or writes; the next start looks again
