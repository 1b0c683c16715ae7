# SPDX-License-Identifier: Apache-2.0
"""Expands a table of names for one model: a row for each of its parameters."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from flax import traverse_util

from ldm_jax.interop.names import KINDS


class NameRow(NamedTuple):
    """One parameter of this package, with its name and layout in each format.

    Attributes:
      ours: path of a parameter, "encoder/conv_in/kernel".
      shape: of our parameter.
      names: (CompVis, diffusers).
      layouts: how each of the two lays it out.
      part: 0, 1, 2 for q, k, v in a fused CompVis tensor; None otherwise.
      heads: attention heads of a fused tensor.
    """

    ours: str
    shape: tuple[int, ...]
    names: tuple[str, str]
    layouts: tuple[str, str]
    part: int | None = None
    heads: int | None = None


# Last path component here -> there, where a layer has the parameter as a child.
_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}


def parameter_shapes(module: nn.Module, *inputs: Any) -> dict[str, tuple[int, ...]]:
    """Returns {path: shape} of a module's parameters; nothing is computed.

    Args:
      module: the network.
      *inputs: of its call, arrays or shapes.
    """
    params = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    flat: dict[str, Any] = dict(traverse_util.flatten_dict(params, sep="/"))
    return {path: leaf.shape for path, leaf in flat.items()}


def rows_for(
    table,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    num_levels: int = 0,
    num_res_blocks: int = 0,
    attention_levels: tuple[int, ...] = (),
    heads: Callable[[int], int] | None = None,
) -> tuple[NameRow, ...]:
    """Spells a table out for the parameters of one model.

    Args:
      table: one of `names`.
      shapes: {path: shape} of our parameters.
      num_levels, num_res_blocks, attention_levels: of the model, where it has levels.
      heads: channels -> attention heads, where the table has fused tensors.

    Raises:
      ValueError: a parameter has no row; the table lacks a layer the model has.
    """
    patterns = [(_pattern(row[0]), row) for row in _layers(table)]
    result = []
    for path, shape in shapes.items():
        match, (ours, compvis, diffusers, kind) = _find(patterns, path)
        numbers = {k: int(v) for k, v in match.groupdict().items() if k != "leaf"}
        places = _places(numbers, num_levels, num_res_blocks, attention_levels)
        leaf = match.group("leaf")
        # A bare path stands for the parameter itself.
        suffix = f".{_LEAVES[leaf]}" if leaf else ""
        names = (
            compvis.format(**places) + suffix,
            diffusers.format(**places) + suffix,
        )
        layouts = KINDS[kind] if leaf != "bias" else ("vector", "vector")
        part = count = None
        if kind == "qkv":
            part, layouts = "qkv".index(ours[-1]), ("qkv", layouts[1])
            count = heads(shape[-1]) if heads else 1
        result.append(NameRow(path, tuple(shape), names, layouts, part, count))
    return tuple(result)


def _find(patterns, path: str):
    """Finds the row of a parameter."""
    for pattern, row in patterns:
        match = pattern.fullmatch(path)
        if match:
            return match, row
    raise ValueError(
        f"a parameter must be in the tables of names to be imported or exported: got "
        f'"{path}", which other frameworks do not have.'
    )


def _layers(table):
    """Yields the rows of a table; nested tables get the prefix of their row."""
    for ours, compvis, diffusers, kind in table:
        if isinstance(kind, str):
            yield ours, compvis, diffusers, kind
            continue
        for inner in kind:
            yield (
                f"{ours}/{inner[0]}",
                f"{compvis}.{inner[1]}",
                f"{diffusers}.{inner[2]}",
                inner[3],
            )


def _pattern(ours: str) -> re.Pattern:
    """Makes an expression for our path of a layer, or of a parameter, and its leaf."""
    body = re.sub(r"\{(\w)\}", r"(?P<\1>\\d+)", ours)
    leaves = "|".join(_LEAVES)
    return re.compile(rf"{body}(?:/(?P<leaf>{leaves}))?")


def _places(numbers, num_levels, num_res_blocks, attention_levels) -> dict[str, int]:
    """Computes the placeholders that follow from level and block.

    A level of the original's UNet takes R + 1 entries of input_blocks (R blocks and a
    downsampling, after conv_in) and of output_blocks (R + 1 blocks, the last with the
    upsampling behind its attention).
    """
    level, block = numbers.get("l", 0), numbers.get("b", 0)
    rev_level, per_level = num_levels - 1 - level, num_res_blocks + 1
    return numbers | {
        "next_b": block + 1,
        "twice_b": 2 * block,
        "twice_b_next": 2 * block + 1,
        "rev_l": rev_level,
        "i": 1 + level * per_level + block,
        "i_last": (level + 1) * per_level,
        "o": rev_level * per_level + block,
        "o_last": rev_level * per_level + num_res_blocks,
        "behind_attention": 2 if level in attention_levels else 1,
    }
