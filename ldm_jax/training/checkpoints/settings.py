# SPDX-License-Identifier: Apache-2.0
"""The settings of a run, stored in config.json and compared when it is resumed."""

import copy
import dataclasses
import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from etils import epath

from ldm_jax.files.formats.structured import read_json
from ldm_jax.files.writing import write_json
from ldm_jax.parallel.hosts import is_main_process
from ldm_jax.training.checkpoints.differences import differences, shorten


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a run, and those that may change when it is resumed.

    Attributes:
      config: the settings, JSON-able.
      may_change: dotted name of a setting -> True, False, or the name of the option
        without which it must not change.
      allowed: those options that are set.
      defaults: dotted name -> value of settings that a config may leave out.
    """

    config: Mapping[str, Any]
    may_change: Callable[[str], bool | str] = lambda name: False
    allowed: Collection[str] = ()
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def write(self, workdir: epath.Path) -> None:
        """Writes config.json of a working directory.

        Raises:
          ValueError: the directory belongs to a run with other settings; lists them,
            and the options that would let them change.
          UnreadableFile: the config.json of the directory is damaged.
        """
        config = json.loads(json.dumps(dict(self.config)))
        path = workdir / "config.json"
        if path.exists():
            self._compare(read_json(path), config, workdir)
        if is_main_process():
            write_json(path, config)

    def _compare(self, before, now, workdir) -> None:
        refused = [
            (line, rule)
            for name, line in differences(
                _filled(before, now, self.defaults), _filled(now, before, self.defaults)
            )
            if (rule := self.may_change(name)) is not True and rule not in self.allowed
        ]
        if not refused:
            return
        options = sorted({rule for _, rule in refused if isinstance(rule, str)})
        allow = [f"--config.train.{option}=True" for option in options]
        resume = f"To resume nevertheless, give {' '.join(allow)}. " if allow else ""
        raise ValueError(
            f"{workdir} holds a run with other settings:\n"
            + shorten([line for line, _ in refused])
            + f"\n{resume}Use these settings, another workdir, or delete {workdir}."
        )


def _filled(config, other, defaults: Mapping[str, Any]):
    """Adds the defaults of fields that only `other` has."""
    config = copy.deepcopy(config)
    for name, value in json.loads(json.dumps(dict(defaults))).items():
        section, _, key = name.rpartition(".")
        fields, other_fields = config.get(section), other.get(section)
        both = isinstance(fields, dict) and isinstance(other_fields, dict)
        if both and key in other_fields:
            fields.setdefault(key, value)
    return config
