# SPDX-License-Identifier: Apache-2.0
"""Lists the configs of the package: their arguments and what each is for."""

import importlib
import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple

from ldm_jax import configs
from ldm_jax.files.errors import nearest_name

# No config knows an argument of this name, and answers with those that it takes.
UNKNOWN = "?"


class Listed(NamedTuple):
    """A config of the package.

    Attributes:
      name: for --config=NAME.
      arguments: that follow the colon, with their defaults.
      summary: one sentence.
      note: its docstring: what is reproduced, the commands, the paper's numbers.
    """

    name: str
    arguments: Mapping[str, Any]
    summary: str
    note: str

    @property
    def usage(self) -> str:
        """The name with its arguments: "imagenet_f:f=8"."""
        arguments = ",".join(
            f"{name}={value}" for name, value in self.arguments.items()
        )
        return f"{self.name}:{arguments}" if arguments else self.name


def list_configs() -> list[Listed]:
    """Lists every config, by name."""
    return [_describe(name) for name in configs.names()]


def describe_config(name: str) -> Listed:
    """Describes one config.

    Raises:
      ValueError: there is no config of this name.
    """
    known = configs.names()
    if name not in known:
        raise ValueError(
            f'no config has the name "{name}"{nearest_name(name, known)} There are: '
            f"{', '.join(known)}."
        )
    return _describe(name)


def _describe(name: str) -> Listed:
    module = importlib.import_module(f"ldm_jax.configs.{name}")
    note = inspect.cleandoc(module.__doc__ or "")
    return Listed(name, _arguments(module), note.partition("\n")[0], note)


def _arguments(module: ModuleType) -> Mapping[str, Any]:
    """Lists the arguments of a config, from its error for an unknown argument."""
    get = getattr(module, "get_config", None) or module.get_study
    try:
        get(UNKNOWN)
    except configs.ArgumentError as error:
        return error.takes or {}
    return {}
