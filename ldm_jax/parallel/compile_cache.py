# SPDX-License-Identifier: Apache-2.0
"""Keeps compiled programs on disk, so that a repeated command need not compile."""

import logging
import pathlib

import filelock
import jax

from ldm_jax.files.moving import remove
from ldm_jax.files.paths import cache_directory

# Programs of a large model take tens of megabytes; the least recently used are deleted.
MAX_BYTES = 4 * 2**30

# JAX's names: of its lock, of a program, and of the time when it was last used.
_LOCK, _PROGRAM, _LAST_USE = ".lockfile", "-cache", "-atime"


def keep_programs() -> None:
    """Makes JAX keep compiled programs in `cache_directory() / "programs"`.

    Changes nothing where JAX_COMPILATION_CACHE_DIR names another place, or
    JAX_ENABLE_COMPILATION_CACHE=0 turns it off. For commands: a library leaves this to
    the program that imports it. A folder that cannot be written is a warning.
    """
    if (
        jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
        or not jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
    ):
        return
    folder = cache_directory() / "programs"
    try:
        folder.mkdir(0o700, parents=True, exist_ok=True)
        _delete_unfinished(folder)
    except OSError as error:
        logging.getLogger(__name__).warning(
            "compiled programs are not kept: %s (%s); the next start compiles again. "
            "JAX_COMPILATION_CACHE_DIR names another folder for them.",
            *(folder, error.strerror or error),
        )
        return
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    jax.config.update("jax_compilation_cache_dir", str(folder))


def _delete_unfinished(folder: pathlib.Path) -> None:
    """Deletes programs that a process was killed while writing.

    JAX writes the time of use last, would read the rest as a damaged program at every
    start, and never write it again.
    """
    try:
        with filelock.FileLock(folder / _LOCK, timeout=0):
            for program in folder.glob(f"*{_PROGRAM}"):
                last_use = program.name.removesuffix(_PROGRAM) + _LAST_USE
                if not (folder / last_use).exists():
                    remove(program)
    except filelock.Timeout:
        pass  # another process reads or writes; the next start looks again
