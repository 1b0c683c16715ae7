# SPDX-License-Identifier: Apache-2.0
"""Finds the state dict in the objects of a checkpoint of PyTorch."""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ldm_jax.files.errors import UnreadableFile, cut, shown
from ldm_jax.files.formats.arrays import check_num_arrays
from ldm_jax.files.paths import printable
from ldm_jax.interop.stored import Stored
from ldm_jax.interop.torch_files.rebuild import NumpyArray, Unreadable
from ldm_jax.interop.torch_files.unpickler import Inert

# Dicts in dicts that are searched: {"state": {"model": {name: tensor}}}.
MAX_DEPTH = 3
# A dict with fewer tensors than this share of the largest is not a candidate, because
# checkpoints also contain losses and the moments of optimizers.
LEAST_SHARE = 0.1

Tensors = dict[str, Stored | np.ndarray]


def state_dict(path: pathlib.Path, root: Any, key: str | None = None) -> Tensors:
    """Takes the state dict out of a checkpoint.

    Args:
      path: of the file, for errors.
      root: its objects, as `unpickle` makes them.
      key: the entry that holds the state dict ("model", "state.model"), or what names
        of its tensors begin with; None takes "state_dict", or the only entry that
        holds tensors.

    Raises:
      UnreadableFile: there is none, there are several or too many, or a tensor in it
        cannot be read; the message lists the entries, or names the tensor.
    """
    if not isinstance(root, dict):
        kind = type(root).__name__ if isinstance(root, Inert) else shown(root)
        raise UnreadableFile(
            f"{printable(path)} must hold a state dict: got {cut(kind, 60)}; save the "
            "model's state_dict() instead of the model."
        )
    candidates = dict(_candidates(root, "", MAX_DEPTH))
    chosen = _chosen(path, root, candidates, key)
    check_num_arrays(path, _count(chosen))
    return _tensors(path, chosen)


def _candidates(entries: Mapping, place: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Yields (key, dict) of the dicts that hold tensors, outer ones first."""
    if any(_is_tensor(value) for value in entries.values()):
        yield place, entries
    for name, value in entries.items():
        if type(name) is str and isinstance(value, dict) and depth:
            yield from _candidates(value, f"{place}.{name}".lstrip("."), depth - 1)


def _chosen(path, root, candidates: Mapping[str, Any], key: str | None) -> Any:
    """Chooses the dict of tensors by key, or where there is only one."""
    sizes = {name: _count(entries) for name, entries in candidates.items()}
    if key is None:
        least = LEAST_SHARE * max(sizes.values(), default=0)
        main = [name for name in sizes if sizes[name] >= least]
        key = "state_dict" if "state_dict" in sizes or len(main) != 1 else main[0]
    if key in candidates:
        return candidates[key]
    prefix = f"{key.rstrip('.')}."
    for entries in candidates.values():
        names = [n for n in entries if type(n) is str and n.startswith(prefix)]
        if names:
            return {name.removeprefix(prefix): entries[name] for name in names}
    if not candidates:
        names = ", ".join(printable(str(name)) for name in list(root)[:20])
        is_module = any(isinstance(value, Inert) for value in root.values())
        way_out = "; save the model's state_dict() instead of the model"
        raise UnreadableFile(
            f"{printable(path)} holds no tensors in its state dict; its entries are: "
            f"{cut(names) or 'none'}{way_out if is_module else ''}."
        )
    listed = ", ".join(
        f'"{printable(n)}" ({size} tensors)' for n, size in sizes.items()
    )
    raise UnreadableFile(
        f'{printable(path)} holds no tensors at "{printable(key)}" but at '
        f"{cut(listed, 400)}; choose with --key."
    )


def _count(entries: Mapping) -> int:
    return sum(_is_tensor(value) for value in entries.values())


def _is_tensor(value: Any) -> bool:
    kinds = (Stored, Unreadable, np.ndarray)
    return type(value) in kinds or (
        type(value) is NumpyArray and value.value is not None
    )


def _tensors(path, entries: Mapping) -> Tensors:
    """Takes the tensors out of a dict; everything else in it is left out."""
    result: Tensors = {}
    for name, value in entries.items():
        if not _is_tensor(value):
            continue
        if type(name) is not str:
            raise UnreadableFile(
                f"{printable(path)}: names of tensors must be texts: got {shown(name)}."
            )
        if type(value) is Unreadable:
            raise UnreadableFile(
                f'{printable(path)}: "{printable(name)}" is a tensor without plain '
                f"data (it would be rebuilt by {printable(value.function)}); save it "
                "on the CPU, dense and unsharded: state_dict entries after "
                ".cpu().dequantize() or .full_tensor()."
            )
        if type(value) is NumpyArray:
            value = value.value
        assert value is not None  # `_is_tensor`
        result[name] = value
    return result
