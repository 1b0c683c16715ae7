# SPDX-License-Identifier: Apache-2.0
"""Checks the types of settings that come from files and callers."""

import numbers
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ldm_jax.files.errors import shown

# Range of the positive numbers that single precision holds with all of its digits.
MIN_FLOAT32 = float(np.finfo(np.float32).tiny)
MAX_FLOAT32 = float(np.finfo(np.float32).max)
# What settings may be, and how errors call it. Lists are what JSON makes of tuples.
_ACCEPTED = {
    bool: (bool, "True or False"),
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    str: (str, "a text"),
    tuple: (Sequence, "a tuple"),
    Sequence: (Sequence, "a tuple"),
    Mapping: (Mapping, "a dict of settings"),
    types.NoneType: (types.NoneType, "None"),
}


def check_type(name: str, value: Any, annotation: Any, way_out: str) -> None:
    """Checks that a setting has the type of its annotation.

    Args:
      name: of the setting, for the error.
      value: that was given.
      annotation: bool, int, float, str, None, a tuple, a sequence or a mapping, or a
        union of these; anything else accepts every value.
      way_out: the end of the error.

    Raises:
      ValueError: it has another one.
    """
    kinds = _alternatives(annotation)
    if not any(_fits(value, kind) for kind in kinds):
        nouns = dict.fromkeys(_noun(kind) for kind in kinds)
        raise ValueError(
            f"{name} must be {' or '.join(nouns)}: got {shown(value)}; {way_out}."
        )


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """Returns the types of a union, else the annotation itself."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _alternatives(arguments[0])
    if origin in (types.UnionType, typing.Union):
        return tuple(kind for part in arguments for kind in _alternatives(part))
    return (annotation,)


def _noun(kind: Any) -> str:
    """Returns how an error calls a type: "a tuple, each a whole number"."""
    noun = _ACCEPTED[typing.get_origin(kind) or kind][1]
    elements = [e for e in typing.get_args(kind) if e in _ACCEPTED]
    if noun == "a tuple" and elements:
        noun = f"{noun}, each {_noun(elements[0])}"
    return noun


def _fits(value: Any, kind: Any) -> bool:
    """Returns whether a value is of one type; so is every value of an unknown one."""
    origin, elements = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin not in _ACCEPTED:
        return True
    # A bool is an int, text and bytes are sequences to Python, but that is not meant.
    is_other = isinstance(value, bool | str | bytes) and origin not in (bool, str)
    if is_other or not isinstance(value, _ACCEPTED[origin][0]):
        return False
    if origin not in (tuple, Sequence) or not elements:
        return True
    entries: Any = value
    if origin is tuple and elements[-1] is not Ellipsis:
        return len(entries) == len(elements) and all(map(_fits, entries, elements))
    return all(_fits(entry, elements[0]) for entry in entries)
