# SPDX-License-Identifier: Apache-2.0
"""A working directory: its path, and whether it can be written."""

import contextlib
import shutil

from etils import epath

from ldm_jax.parallel.hosts import is_main_process


def is_remote(directory: str | epath.Path) -> bool:
    """Tells whether a directory lies on an object store (gs://...)."""
    return "://" in str(directory)


def absolute(directory: str | epath.Path) -> epath.Path:
    """Makes a local path absolute, as orbax wants it; gs://... stays as it is."""
    path = epath.Path(directory)
    return path if is_remote(directory) else path.expanduser().resolve()


def first_line(error: Exception) -> str:
    """Returns what an error says, without what orbax and others write below it."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def make_writable(workdir: epath.Path) -> None:
    """Makes the directory.

    Raises:
      OSError: nothing can be written there; says why in a line.
      ValueError: it is remote, and the package that reaches it is missing.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if is_main_process():
            probe = workdir / ".writable"
            probe.write_text("")
            probe.unlink()
    except ImportError as error:
        raise ValueError(
            f"the workdir {workdir} needs a package that reaches its store: "
            "pip install 'ldm_jax[gcs]' for gs://, or mount it and give the path."
        ) from error
    except Exception as error:
        raise OSError(
            f"workdir must be a directory that this process may write: got {workdir} "
            f"({first_line(error)}). Choose another --workdir, or change who may write "
            "there."
        ) from error


@contextlib.contextmanager
def writing(what: str, path: str | epath.Path):
    """Says of whatever cannot be written where, and how much is free there.

    Put nothing into the block but the writing: orbax tells of a full disk by a
    ValueError, so every error counts as one of writing.

    Raises:
      OSError: something was raised within; a line.
    """
    try:
        yield
    except Exception as error:
        try:
            free = f"{shutil.disk_usage(path).free / 2**30:.2f} GiB free"
        except OSError:
            free = "free space unknown"
        raise OSError(
            f"could not write {what} to {path} ({free}): {first_line(error)}"
        ) from error
