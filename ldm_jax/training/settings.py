# SPDX-License-Identifier: Apache-2.0
"""The settings of a run, in its working directory: written once, compared later."""

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from ldm_jax.training.differences import differences, shorten
from ldm_jax.training.hosts import is_main_process


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
