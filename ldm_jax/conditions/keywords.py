# SPDX-License-Identifier: Apache-2.0
"""How a condition is said in Python: `model.condition(params, KEYWORD=...)`.

    keyword       array                               field of a batch
    class_label   [B] int in [0, classes)             label
    tokens        [B, M] int                          tokens
    segmentation  [B, H, W] int                       label_map
    low_res       [B, h, w, 3] float in [-1, 1]       low_res
    image         [B, H, W, 3] float in [-1, 1]       image
    mask          [B, H, W, 1] float, 1 in the hole   mask

Instead of tokens, a text model takes text= (one or a list of them) and a layout model
boxes= (as `user_inputs.layouts` reads them).
"""

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.conditions.base import Conditioner, Hybrid
from ldm_jax.types import Array, Batch


class Keyword(NamedTuple):
    """What an array under a keyword is.

    Attributes:
      field: of a batch.
      axes: names of its axes.
      is_int: whether it holds whole numbers.
    """

    field: str
    axes: str
    is_int: bool


KEYWORDS = {
    "class_label": Keyword("label", "[B]", True),
    "tokens": Keyword("tokens", "[B, M]", True),
    "segmentation": Keyword("label_map", "[B, H, W]", True),
    "low_res": Keyword("low_res", "[B, h, w, 3]", False),
    "image": Keyword("image", "[B, H, W, 3]", False),
    "mask": Keyword("mask", "[B, H, W, 1]", False),
}
_OF_FIELD = {keyword.field: name for name, keyword in KEYWORDS.items()}


def read_keywords(conditioner: Conditioner, said: Mapping[str, Any]) -> Batch:
    """Turns what a caller says into the fields that a conditioner reads.

    Args:
      conditioner: of the model.
      said: by keyword; NumPy or JAX arrays, which may be traced, or text or boxes.

    Returns:
      `conditioner.fields` by name.

    Raises:
      ValueError: a keyword is missing or unknown, or its array has other axes, another
        kind of number or unknown ids.
    """
    fields, left = {}, dict(said)
    for part in _parts(conditioner):
        for field in part.fields:
            choices = keywords_of(part, field)
            given = [name for name in choices if name in left]
            if len(given) != 1:
                raise ValueError(_expected(conditioner, said))
            value = left.pop(given[0])
            fields[field] = _read(part, field, given[0], value)
    if left:
        raise ValueError(_expected(conditioner, said))
    return fields


def _parts(conditioner: Conditioner) -> list[Conditioner]:
    if isinstance(conditioner, Hybrid):
        return [part for _, part in conditioner.parts]
    return [conditioner]


def keyword_of(field: str) -> str:
    """Returns the keyword under which a field's array is said."""
    return _OF_FIELD[field]


def keywords_of(part: Conditioner, field: str) -> list[str]:
    """Lists the keywords by which a field can be said; one of them is needed."""
    if field != "tokens":
        return [keyword_of(field)]
    return ["tokens", *inspect.signature(part.from_user).parameters]


def _expected(conditioner, said) -> str:
    wanted = [
        " or ".join(keywords_of(part, field))
        for part in _parts(conditioner)
        for field in part.fields
    ]
    return (
        f'a model with the "{conditioner.kind}" condition takes '
        f"{' and '.join(wanted) or 'no keyword'}: got {', '.join(said) or 'none'}. "
        "Any model takes context= and concat=, ready-made."
    )


def _read(part: Conditioner, field: str, name: str, value) -> Array:
    """Reads the value of one keyword."""
    if name not in KEYWORDS:  # text or boxes
        # A text is never a path here, as it may be on the command line.
        value = [value] if name == "text" and isinstance(value, str) else value
        return jnp.asarray(part.from_user(value)[field])
    return read_array(name, value, part.num_ids)


def read_array(name: str, value, num_ids: int | None = None) -> Array:
    """Checks an array under one of KEYWORDS.

    Args:
      name: the keyword.
      value: the array, or what NumPy makes one of.
      num_ids: whole numbers must be below it; None asks nothing.

    Returns:
      A JAX array, int32 or float32.

    Raises:
      ValueError: see `read_keywords`.
    """
    _, axes, is_int = KEYWORDS[name]
    array = value if isinstance(value, jax.Array) else np.asarray(value)
    rank = axes.count(",") + 1
    if array.ndim != rank:
        raise ValueError(f"{name} must be {axes}: got shape {tuple(array.shape)}.")
    if is_int:
        if array.dtype.kind not in "iu":
            raise ValueError(f"{name} must be whole numbers: got {array.dtype}.")
        if num_ids is not None and not isinstance(array, jax.core.Tracer):
            low, high = int(np.min(array)), int(np.max(array))
            if low < 0 or high >= num_ids:
                raise ValueError(
                    f"{name} must be in [0, {num_ids}): got {low} to {high}."
                )
        return jnp.asarray(array, jnp.int32)
    return read_floats(name, array)


def read_floats(name: str, value) -> Array:
    """Checks that an image is no bytes; returns a JAX array in float32.

    Raises:
      ValueError: it holds whole numbers.
    """
    array = value if isinstance(value, jax.Array) else np.asarray(value)
    if array.dtype.kind in "iu":
        raise ValueError(
            f"{name} must be floating point, images in [-1, 1]: got {array.dtype}; "
            "divide bytes by 127.5 and subtract 1."
        )
    return jnp.asarray(array, jnp.float32)
