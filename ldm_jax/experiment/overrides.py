# SPDX-License-Identifier: Apache-2.0
"""Config files, and the values that a command line puts in the place of theirs."""

import difflib
import inspect
import pathlib
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_dict import placeholder

PLAIN = (bool, int, float, str, tuple)
FieldsOf = Callable[[ConfigDict, str], Mapping[str, inspect.Parameter]]


def read_file(path: str, overrides: Sequence[str], fields_of: FieldsOf) -> ConfigDict:
    """Runs a config file and applies overrides.

    Args:
      path: FILE or FILE:ARGUMENT; the file has get_config(), and may import its
        neighbours (`from configs import common`).
      overrides: "--config.section.field=value", typed as the value they replace.
      fields_of: (config, section) -> the fields that a section may have. What a file
        leaves at its default can be set as well.

    Raises:
      ValueError: no such file, an unknown field (with the nearest known one), or a
        value of the wrong type.
    """
    file = pathlib.Path(path.partition(":")[0])
    if not file.is_file():
        raise ValueError(
            f"no config file {file} (from {pathlib.Path.cwd()}); run from a clone of "
            "the project, or give --config=FILE."
        )
    root = str(file.resolve().parent.parent)
    sys.path.insert(0, root)
    try:
        config = _parse(config_flags.DEFINE_config_file, (), [f"--config={path}"])
    finally:
        sys.path.remove(root)
    if not overrides:
        return config
    for override in overrides:
        _make_room(config, override.partition("=")[0], fields_of)
    return _parse(config_flags.DEFINE_config_dict, (config,), overrides)


def check_names(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raises ValueError for a name that is not known, with the nearest that is."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f'; did you mean "{near[0]}"?' if near else "."
            takes = ", ".join(sorted(known)) or "nothing"
            raise ValueError(f'{where} has no "{name}"{hint} It takes: {takes}.')


def _parse(define: Callable, source: tuple, command: Sequence[str]) -> ConfigDict:
    """Lets absl read a command line into the config that `define` declares."""
    values = flags.FlagValues()
    # config_flags reads sys.argv itself, not its argument.
    arguments, sys.argv = sys.argv, ["ldm-jax", *command]
    try:
        define("config", *source, flag_values=values)
        values(sys.argv)
        return values.config
    except (flags.Error, config_flags.config_flags.UnsupportedOperationError) as error:
        raise ValueError(_reason(error)) from error
    finally:
        sys.argv = arguments


def _reason(error: BaseException) -> str:
    """Says what is wrong; of a config file, what it raised and no traceback."""
    while "parsing config file" in str(error) and error.__context__ is not None:
        error = error.__context__
    return str(error)


def _make_room(config: ConfigDict, flag: str, fields_of: FieldsOf) -> None:
    """Refuses "--config.a.b" unless there is an a.b, or may be: then it is added."""
    where = "config"
    entry: Any = config
    names = flag.removeprefix("--config.").split(".")
    for depth, name in enumerate(names):
        given = entry if isinstance(entry, ConfigDict) else {}
        fields = fields_of(config, names[0]) if depth == 1 else {}
        check_names(where, [name], {**fields, **given})
        where = f"{where}.{name}"
        if name not in given:
            with entry.unlocked():
                entry[name] = _default(fields[name], where)
        entry = entry.get(name)


def _default(field: inspect.Parameter, where: str) -> Any:
    """Returns a field's default, or the empty place of a value of its type."""
    if isinstance(field.default, PLAIN):
        return field.default
    kinds = typing.get_args(field.annotation) or (field.annotation,)
    kinds = [str if kind is np.dtype else kind for kind in kinds]
    plain = [kind for kind in kinds if kind in PLAIN]
    if len(plain) != 1 or isinstance(field.annotation, types.GenericAlias):
        raise ValueError(
            f"{where} cannot be set on a command line; set it in the config file."
        )
    return placeholder(plain[0])
