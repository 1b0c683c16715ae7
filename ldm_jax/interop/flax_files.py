# SPDX-License-Identifier: Apache-2.0
"""Reads the Flax weights of older diffusers and transformers under PyTorch's names.

    down_blocks_0/resnets_1/conv1/kernel [h, w, I, O] -> down_blocks.0.resnets.1.conv1
    .weight [O, I, h, w]

Source: diffusers' `convert_pytorch_state_dict_to_flax`, inverted.
"""

import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from flax import serialization

from ldm_jax.files.errors import UnreadableFile, reading
from ldm_jax.files.paths import printable
from ldm_jax.files.reading import opened
from ldm_jax.interop.stored import Weights

# Modules of a list, whose number Flax joins with an underscore.
_NUMBERED = re.compile(
    r"(down_blocks|up_blocks|resnets|attentions|downsamplers|upsamplers"
    r"|transformer_blocks|net|to_out|layers)_(\d+)"
)
_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}


def read_flax(path: pathlib.Path) -> Weights:
    """Reads a .msgpack file of flax.serialization.

    Returns:
      {PyTorch's name: ndarray in PyTorch's layout}. All arrays are in memory.

    Raises:
      UnreadableFile: the file is damaged, or holds anything but arrays by name.
    """
    with opened(path, "a file of weights") as file:
        data = file.read()
    with reading(path, rule="cannot be unpacked by flax.serialization", data=data):
        tree = serialization.msgpack_restore(data)
    if not isinstance(tree, Mapping):
        raise UnreadableFile(
            f"{printable(path)} must hold arrays by name: got {type(tree).__name__}."
        )
    if set(tree) == {"params"}:
        tree = tree["params"]
    return Weights(dict(_tensors(path, tree)))


def _tensors(
    path: pathlib.Path, tree: Mapping[Any, Any], prefix: tuple[str, ...] = ()
) -> Iterator[tuple[str, np.ndarray]]:
    for key, value in tree.items():
        place = (*prefix, str(key))
        if isinstance(value, Mapping):
            yield from _tensors(path, value, place)
        elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
            yield _to_torch(place, value)
        else:
            raise UnreadableFile(
                f"{printable(path)} must hold arrays by name: "
                f"{printable('/'.join(place))} is a {type(value).__name__}."
            )


def _to_torch(place: tuple[str, ...], value: np.ndarray) -> tuple[str, np.ndarray]:
    """Returns PyTorch's name and layout of one array."""
    *modules, leaf = place
    modules = [_NUMBERED.sub(r"\1.\2", module) for module in modules]
    if leaf == "kernel":
        value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
    return ".".join([*modules, _LEAVES.get(leaf, leaf)]), value
