# SPDX-License-Identifier: Apache-2.0
"""Reads the keywords of `model.condition(params, KEYWORD=...)` and checks their arrays.

The keywords are those of the condition's fields (`fields.Field`).
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float32, Int32

from ldm_jax.conditions.base import Condition
from ldm_jax.conditions.fields import Field
from ldm_jax.types import Batch, Conditioning


def read_keywords(condition: Condition, inputs: Mapping[str, Any]) -> Batch:
    """Reads the fields of a condition from a caller's keywords.

    Args:
      condition: of the model.
      inputs: by keyword; NumPy or JAX arrays, which may be traced, or what the field's
        `user_keyword` takes.

    Returns:
      `condition.fields` by name, B rows each.

    Raises:
      ValueError: a keyword is missing or unknown, or its array has other axes, another
        kind of number or unknown ids.
    """
    sizes: dict[str, tuple[int, str]] = {}
    batch, used = {}, set()
    for part in condition.parts.values():
        for name, field in part.fields.items():
            given = [keyword for keyword in field.keywords if keyword in inputs]
            if len(given) != 1:
                raise ValueError(_takes(condition, inputs))
            used.update(given)
            value = inputs[given[0]]
            if given[0] == field.keyword:
                batch[name] = read_keyword(part, field, value)
            else:
                # A text is never a path here, as it may be on the command line.
                value = [value] if isinstance(value, str) else value
                array = part.from_user(**{field.user_keyword: value})[name]
                batch[name] = jnp.asarray(array)
            _check_sizes(given[0], field.axes, batch[name].shape, sizes)
    if set(inputs) - used:
        raise ValueError(_takes(condition, inputs))
    return batch


def _takes(condition: Condition, inputs: Mapping[str, Any]) -> str:
    fields = condition.fields.values()
    choices = [" or ".join(field.keywords) for field in fields]
    return (
        f'a model with the "{condition.kind}" condition takes '
        f"{' and '.join(choices) or 'no keyword'}: got {', '.join(inputs) or 'none'}. "
        "Any model takes context= and concat=, ready-made."
    )


def _check_sizes(keyword, axes, shape, sizes) -> None:
    """Raises ValueError where an axis has another size than in a keyword before."""
    for axis, size in zip(axes, shape, strict=True):
        known, where = sizes.setdefault(axis, (size, keyword))
        if known != size:
            raise ValueError(
                f"{where} and {keyword} must have one size along {axis}: got {known} "
                f"and {size}."
            )


def read_keyword(
    condition: Condition, field: Field, value: Any
) -> Int32[jax.Array, "B ..."] | Float32[jax.Array, "B ..."]:
    """Checks an array against its field.

    Args:
      condition: that has the field.
      field: names the array's axes, dtype and bound.
      value: the array, or what NumPy makes one of.

    Returns:
      The array, as a JAX array.

    Raises:
      ValueError: see `read_keywords`.
    """
    name = field.keyword
    array = value if isinstance(value, jax.Array) else np.asarray(value)
    axes = field.shape(condition)
    fixed = [(i, size) for i, size in enumerate(axes) if isinstance(size, int)]
    if array.ndim != len(axes) or any(array.shape[i] != size for i, size in fixed):
        raise ValueError(
            f"{name} must be [{', '.join(map(str, axes))}]: got shape "
            f"{tuple(array.shape)}."
        )
    if 0 in array.shape[:1]:
        raise ValueError(f"{name} must have a row for each image: got none.")
    if jnp.dtype(field.dtype).kind not in "iu":
        return read_floats(name, array)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be whole numbers: got {array.dtype}.")
    if field.limit and not isinstance(array, Tracer):
        num_ids = getattr(condition, field.limit)
        low, high = int(np.min(array)), int(np.max(array))
        if low < 0 or high >= num_ids:
            raise ValueError(f"{name} must be in [0, {num_ids}): got {low} to {high}.")
    return jnp.asarray(array, field.dtype)


def read_encoded(
    inputs: Mapping[str, Any], context_dim: int | None, concat_channels: int
) -> Conditioning:
    """Reads a condition that is encoded already.

    Args:
      inputs: context= [B, M, d] or concat= [B, h, w, k] or both.
      context_dim: d of the denoiser; None where it has no cross-attention.
      concat_channels: k of the denoiser; 0 for none.

    Raises:
      ValueError: another keyword, or axes that the denoiser does not read.
    """
    takes = {"context": (3, context_dim), "concat": (4, concat_channels)}
    arrays = {}
    for name, value in inputs.items():
        if name not in takes:
            raise ValueError(
                f"context= and concat= are all a denoiser reads: got {name}= too; "
                "leave it out, or give the condition by its keywords alone."
            )
        arrays[name] = array = read_floats(name, value)
        rank, width = takes[name]
        if array.ndim != rank or array.shape[-1] != width:
            axes = {3: "[B, M, {}]", 4: "[B, h, w, {}]"}[rank].format(width)
            raise ValueError(
                f"this model takes {name} {axes if width else 'in no form'}: got "
                f"shape {tuple(array.shape)}."
            )
    return Conditioning(**arrays)


def read_floats(name: str, value: Any) -> Float32[jax.Array, "..."]:
    """Converts an array of floating-point numbers, or a mask of bools, to float32.

    Raises:
      ValueError: it holds other numbers, such as bytes; images are in [-1, 1].
    """
    array = value if isinstance(value, jax.Array) else np.asarray(value)
    if array.dtype.kind in "iu":
        raise ValueError(
            f"{name} must be floating point, images in [-1, 1]: got {array.dtype}; "
            "divide bytes by 127.5 and subtract 1."
        )
    if array.dtype != bool and not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name} must be floating point: got {array.dtype}.")
    return jnp.asarray(array, jnp.float32)
