# SPDX-License-Identifier: Apache-2.0
"""A working directory: that it can be written to, and whose run it holds."""

import contextlib
import copy
import json
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from ldm_jax.parallel.hosts import is_main_process
from ldm_jax.training.checkpoints.differences import differences, shorten


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


def keep_settings(
    workdir: epath.Path,
    config: Mapping[str, Any],
    may_differ: Sequence[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Notes a run's settings in config.json; refuses another run's directory.

    Args:
      workdir: the directory.
      config: the settings, JSON-able.
      may_differ: dotted names, or beginnings of names, that may differ.
      defaults: dotted name -> value of settings that an earlier version of this
        package did not write yet.

    Raises:
      ValueError: the directory belongs to a run with other settings; lists them.
    """
    config = json.loads(json.dumps(config))
    path = workdir / "config.json"
    if path.exists():
        before = json.loads(path.read_text())
        changed = [
            line
            for name, line in differences(
                _filled(before, config, defaults), _filled(config, before, defaults)
            )
            if not any((name + ".").startswith(free + ".") for free in may_differ)
        ]
        if changed:
            raise ValueError(
                f"{workdir} holds a run with other settings:\n"
                + shorten(changed)
                + "\nUse these settings, another workdir, or delete this one."
            )
    if is_main_process():
        _write(path, json.dumps(config, indent=2) + "\n")


def _filled(config, other, defaults: Mapping[str, Any] | None):
    """Adds the default of what only `other` has."""
    config = copy.deepcopy(config)
    for name, value in json.loads(json.dumps(defaults or {})).items():
        section, _, key = name.rpartition(".")
        mine, theirs = config.get(section), other.get(section)
        if isinstance(mine, dict) and isinstance(theirs, dict) and key in theirs:
            mine.setdefault(key, value)
    return config


def _write(path: epath.Path, text: str) -> None:
    """Replaces a file in one step, so that a killed run leaves the old or the new."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)
