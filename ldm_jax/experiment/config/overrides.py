# SPDX-License-Identifier: Apache-2.0
"""Sets fields of a config from a command line: --config.SECTION.FIELD=VALUE."""

import ast
import collections.abc
import decimal
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ldm_jax.experiment.config.schema import check_names, section_fields

EXPECTED = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    tuple: "values separated by commas",
    types.NoneType: "None",
}
SWITCHES = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
MAX_DIGITS = 40  # of 1e40; 1e999999999 would fill the memory


def apply_overrides(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
    """Sets fields of a config, in the order of a command line.

    Args:
      config: is changed.
      overrides: "--config.section.field=value". A value is read as the type of the
        field: `None` if the field may be None, `1e3` and `1_000` for whole numbers,
        `1,2,4` for tuples, `true` (or no "=value") for a bool. Fields that the config
        does not mention, because they have their defaults, can be set too.

    Returns:
      `config`.

    Raises:
      ValueError: an unknown field (names the nearest known one), or a value of another
        type.
    """
    for override in overrides:
        flag, has_value, text = override.partition("=")
        _set(config, flag, text if has_value else None)
    return config


def _set(config: ConfigDict, flag: str, text: str | None) -> None:
    """Sets the field that "--config.a.b" names, or adds it if the section allows it."""
    *path, last = flag.removeprefix("--").split(".")[1:]
    # Fields are known in the sections of an experiment; a config may hold several.
    experiment, section, depth = config, "", 0
    entry: Any = config
    where = "config"
    for name in path:
        depth += 1
        _check_field(where, entry, name, {})
        where, entry = f"{where}.{name}", entry[name]
        if isinstance(entry, ConfigDict) and "task" in entry:
            experiment, depth = entry, 0
        if depth == 1:
            section = name
    fields = section_fields(experiment, section) if depth == 1 else {}
    _check_field(where, entry, last, fields)
    field, where = fields.get(last), f"{where}.{last}"
    if isinstance(entry.get(last), ConfigDict):
        raise ValueError(
            f"{where} is a section; set its fields: --{where}.FIELD=VALUE."
        )
    value = read_value(where, text, _kinds_of(entry, last, field))
    with entry.unlocked(), entry.ignore_type():
        entry[last] = value


def _check_field(where: str, entry: Any, name: str, fields: Mapping) -> None:
    """Refuses a field that `entry` neither has nor may have."""
    if not isinstance(entry, ConfigDict):
        raise ValueError(
            f"{where} has no fields: got {where}.{name}; a section that a "
            "config leaves out is written in a config file."
        )
    check_names(where, [name], {**fields, **dict.fromkeys(entry)})


def _kinds_of(
    entry: ConfigDict, name: str, field: inspect.Parameter | None
) -> tuple[Any, ...]:
    """Returns the types of a field: the declared ones, or else that of its value."""
    declared = _flatten(field.annotation) if field is not None else ()
    if any(kind is not types.NoneType for kind in declared):
        return declared
    kind = entry.get_type(name) if name in entry else types.NoneType
    may_be_none = name in entry and entry[name] is None
    return (*_flatten(kind), *([types.NoneType] if may_be_none else []))


def _flatten(annotation: Any) -> tuple[Any, ...]:
    """Returns the types of an annotation that a command line can express."""
    if annotation is np.dtype:
        return (str,)
    if annotation in EXPECTED:
        return (annotation,)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _flatten(arguments[0])
    if origin in (tuple, collections.abc.Sequence):
        return (annotation,)
    if origin in (typing.Union, types.UnionType):
        return tuple(kind for part in arguments for kind in _flatten(part))
    return ()


def read_value(where: str, text: str | None, kinds: Sequence[Any]) -> Any:
    """Reads a value of a command line as the first of several types that it fits.

    Args:
      where: names the field in the error.
      text: what follows "="; None without "=", which means True for a bool.
      kinds: bool, int, float, str, NoneType, tuple, tuple[int, ...] and the like.

    Raises:
      ValueError: it is of none of these types.
    """
    if not any(kind is not types.NoneType for kind in kinds):
        raise ValueError(
            f"{where} cannot be set on a command line; set it in the config file."
        )
    if text is None:
        if bool not in kinds:
            raise ValueError(f"{where} needs a value: --{where}=VALUE.")
        return True
    reasons = []
    # Texts are last, as everything is a text; None is first.
    for kind in sorted(
        kinds, key=lambda kind: (kind is str, kind is not types.NoneType)
    ):
        try:
            return _read(text, kind)
        except (ValueError, decimal.InvalidOperation) as error:
            reasons.append(str(error))
    expected = " or ".join(EXPECTED.get(kind, EXPECTED[tuple]) for kind in kinds)
    raise ValueError(f"{where} must be {expected}: got {text!r} ({reasons[-1]}).")


def _read(text: str, kind: Any) -> Any:
    """Reads a text as one type; raises ValueError where it is not of that type."""
    if kind is types.NoneType:
        if text != "None":
            raise ValueError("not None")
        return None
    if kind is bool:
        if text.lower() not in SWITCHES:
            raise ValueError(f"one of: {', '.join(SWITCHES)}")
        return SWITCHES[text.lower()]
    if kind is int:
        return _read_int(text)
    if kind is float:
        return float(text)
    if kind is str:
        if text == "None":
            raise ValueError("leave the value empty for none")
        return text
    return _read_tuple(text, kind)


def _read_int(text: str) -> int:
    """Reads 1000, 1_000, 0x3e8 or 1e3, but not 1.5."""
    try:
        return int(text, 16 if text.lower().startswith("0x") else 10)
    except ValueError as error:
        try:
            number = decimal.Decimal(text)
        except decimal.InvalidOperation:
            raise error from None
        if not number.is_finite() or number.adjusted() >= MAX_DIGITS:
            raise ValueError("out of range") from None
        if number != number.to_integral_value():
            raise ValueError("not a whole number") from None
        return int(number)


def _read_tuple(text: str, kind: Any) -> tuple[Any, ...]:
    """Reads "1,2", "(1, 2)", "1" or "" as a tuple, of one type where `kind` has one."""
    try:
        value = ast.literal_eval(text) if text.strip() else ()
    except (ValueError, SyntaxError):  # texts without quotation marks
        value = tuple(part.strip() for part in text.strip("()[] ").split(","))
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    elements = typing.get_args(kind)
    is_sized = typing.get_origin(kind) is tuple and elements[-1] is not Ellipsis
    if is_sized and len(values) != len(elements):
        raise ValueError(f"{len(elements)} values are needed")
    return tuple(
        _read(str(value), elements[0]) if elements else value for value in values
    )
