# SPDX-License-Identifier: Apache-2.0
"""Stores figures of benchmarks, a line per run, and compares them with earlier ones."""

import datetime
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from ldm_jax.files.errors import UnreadableFile
from ldm_jax.files.formats.structured import read_json_lines
from ldm_jax.files.outputs import check_writable_file
from ldm_jax.files.paths import PathLike, resolve
from ldm_jax.files.writing import append_line
from ldm_jax.parallel.compile import num_cores

# Name of a figure -> its value: seconds or counts, and "ratio of PEER".
Figures = dict[str, float]

# A ratio above the last one by this share is reported; less is noise of the machine.
WORSE = 0.10
RATIO = "ratio of "
_PEERS = ("torch", "diffusers", "torch-fidelity")
_FIELDS = {"command", "device", "num_devices", "cores", "versions", "figures", "date"}


class History:
    """The runs in a file of JSON lines."""

    def __init__(self, path: PathLike):
        """Reads the earlier runs, if the file exists.

        Raises:
          UnreadableFile: a line is not a run of a benchmark.
          OSError: no line can be added, as the folder is missing or read-only.
        """
        self._path = path
        self._runs: list[dict[str, Any]] = []
        check_writable_file(path, "--json")
        for number, run in read_json_lines(path) if resolve(path).exists() else ():
            if not run.keys() >= _FIELDS:
                missing = ", ".join(sorted(_FIELDS - run.keys()))
                raise UnreadableFile(
                    f"{path}, line {number} is not a run of ldm-jax bench: it has no "
                    f"{missing}; name another file."
                )
            self._runs.append(run)

    def add(self, command: Sequence[str], figures: Figures) -> list[str]:
        """Adds a run.

        Args:
          command: the arguments of `ldm-jax` that gave the figures, without the path.
          figures: as measured.

        Returns:
          A line for each ratio that is more than 10 % worse than in the last run of the
          same command on the same device with the same peers' versions. Times are not
          compared: a machine is not equally busy on two days, but the programs of one
          run had the same machine.
        """
        run = dict(
            command=" ".join(command),
            date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            device=jax.devices()[0].device_kind,
            num_devices=jax.device_count(),
            cores=num_cores(),
            versions=_versions(),
            figures=figures,
        )
        before = [
            earlier for earlier in self._runs if _setting(earlier) == _setting(run)
        ]
        append_line(self._path, json.dumps(run))
        self._runs.append(run)
        return _worse(before[-1], run) if before else []


def _setting(run: Mapping[str, Any]) -> tuple:
    """Returns the settings that must be equal for ratios to be compared."""
    peers = [run["versions"].get(name) for name in _PEERS]
    return *(run[x] for x in ("command", "device", "num_devices", "cores")), peers


def _worse(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Describes the ratios of a run that are worse than those of an earlier one."""
    lines = []
    for name, ratio in now["figures"].items():
        last = before["figures"].get(name)
        if name.startswith(RATIO) and last and ratio > last * (1 + WORSE):
            lines.append(
                f"slower: {name} is {ratio:.3g}, {ratio / last - 1:.0%} above the "
                f"{last:.3g} of {before['date']}; run it again on a quiet machine."
            )
    return lines


def _versions() -> dict[str, str]:
    """Returns the versions of the packages that are compared, where installed."""
    versions = {}
    for name in ("ldm_jax", "jax", "jaxlib", *_PEERS):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
