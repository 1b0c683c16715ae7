# SPDX-License-Identifier: Apache-2.0
"""Reads and writes parameters and settings of this package: safetensors, npz, orbax.

A folder holds config.json (the settings of a model directory) and model.safetensors,
or shards with an index, under the names of this package: "unet/conv_in/kernel". An .npz
file holds the same arrays and the settings as JSON under the name "config.json". The
vocabulary of a text model is included: files in tokenizer/, or arrays of bytes of these
names.
"""

import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from ldm_jax.files.errors import UnreadableFile, naming
from ldm_jax.files.formats.array_groups import write_arrays
from ldm_jax.files.formats.arrays import read_npz, write_npz
from ldm_jax.files.formats.structured import parse_json, read_json
from ldm_jax.files.paths import PathLike
from ldm_jax.files.progress import progress
from ldm_jax.files.reading import read_bytes
from ldm_jax.files.writing import write_bytes, write_json
from ldm_jax.interop.layouts import NamesDiffer, listed
from ldm_jax.interop.name_rows import NameRow
from ldm_jax.interop.networks import network_rows
from ldm_jax.interop.safetensors import write_safetensors
from ldm_jax.interop.weight_files import read_weights
from ldm_jax.types import PyTree

CONFIG = "config.json"
TOKENIZER = "tokenizer"
WEIGHTS = "model.safetensors"
# The limit of huggingface_hub: readers map a complete shard.
SHARD_BYTES = 5 * 10**9


def write_own_folder(
    folder: pathlib.Path,
    settings: Mapping[str, Any],
    params: PyTree,
    files: Mapping[str, bytes] = MappingProxyType({}),
    shard_bytes: int = SHARD_BYTES,
) -> list[pathlib.Path]:
    """Writes settings and parameters into a folder, one tensor in memory at a time.

    Args:
      folder: made if missing.
      settings: of a model directory, JSON-able.
      params: pytree of arrays, an entry per network.
      files: {relative path: content} of the vocabulary.
      shard_bytes: size from which weights are split into several files.

    Returns:
      The paths written.
    """
    folder = pathlib.Path(folder)
    _write_beside(folder, settings, files)
    flat = flatten(params)
    shards = list(_shards(flat, shard_bytes))
    if len(shards) == 1:
        write_safetensors(folder / WEIGHTS, flat)
        return _files_in(folder)
    shard_files = [
        f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        for i in range(1, len(shards) + 1)
    ]
    for file, names in zip(shard_files, shards, strict=True):
        write_safetensors(folder / file, {name: flat[name] for name in names})
    places = {
        name: file
        for file, names in zip(shard_files, shards, strict=True)
        for name in names
    }
    size = sum(x.nbytes for x in flat.values())
    index = {"metadata": {"total_size": size}, "weight_map": places}
    write_json(folder / f"{WEIGHTS}.index.json", index)
    return _files_in(folder)


def write_own_npz(
    path: pathlib.Path,
    settings: Mapping[str, Any],
    params: PyTree,
    files: Mapping[str, bytes] = MappingProxyType({}),
) -> list[pathlib.Path]:
    """Writes the contents of `write_own_folder` into one .npz file."""
    arrays = {**flatten(params), CONFIG: np.array(json.dumps(dict(settings)))}
    arrays |= {name: np.frombuffer(data, np.uint8) for name, data in files.items()}
    write_npz(path, arrays.items(), sum(x.nbytes for x in arrays.values()))
    return [pathlib.Path(path)]


def write_own_orbax(
    folder: pathlib.Path,
    settings: Mapping[str, Any],
    params: PyTree,
    files: Mapping[str, bytes] = MappingProxyType({}),
) -> list[pathlib.Path]:
    """Writes parameters alone as an orbax checkpoint, `params`, and the settings.

    `orbax.checkpoint.StandardCheckpointer().restore(folder / "params")` reads it.
    """
    folder = pathlib.Path(folder)
    _write_beside(folder, settings, files)
    arrays = jax.tree.map(np.asarray, params)
    num_bytes = sum(x.nbytes for x in jax.tree.leaves(arrays))
    path = folder.absolute() / "params"
    with progress(path, num_bytes) as bar:
        write_arrays(path, arrays, bar.update)
    return _files_in(folder)


def holds_own(path: pathlib.Path | str) -> bool:
    """Returns whether a path is a folder or file written by this module."""
    path = pathlib.Path(path)
    if path.is_dir():
        config = path / CONFIG
        return config.is_file() and "task" in read_json(config)
    return path.suffix == ".npz"


def read_own(
    path: pathlib.Path | str,
) -> tuple[dict[str, Any], PyTree, dict[str, bytes]]:
    """Reads settings and parameters of a folder or .npz file.

    Returns:
      (settings, nested dict of arrays, {relative path: content} of the vocabulary).

    Raises:
      ValueError: no settings, or arrays that are not those of the model they describe;
        lists them by name.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        settings, flat = read_json(path / CONFIG), dict(read_weights(path))
        files = {
            f"{TOKENIZER}/{file.name}": read_bytes(file)
            for file in (path / TOKENIZER).glob("*")
            if file.is_file()
        }
    else:
        flat = read_npz(path)
        if CONFIG not in flat:
            raise UnreadableFile(
                f"an .npz model must hold its settings ({CONFIG}): {path} does not; "
                "export it again with ldm-jax export --to=npz."
            )
        settings = parse_json(str(flat.pop(CONFIG)).encode(), path)
        names = [name for name in flat if name.startswith(f"{TOKENIZER}/")]
        files = {name: flat.pop(name).tobytes() for name in names}
    with naming(path):
        check_shapes(settings, flat, path)
    return settings, traverse_util.unflatten_dict(flat, sep="/"), files


def check_shapes(
    settings: Mapping[str, Any], flat: Mapping[str, np.ndarray], path: PathLike
) -> None:
    """Raises NamesDiffer unless the arrays are those of the model in the settings."""
    check_rows(network_rows(settings), flat, path)


def check_rows(
    rows: Mapping[str, Sequence[NameRow]],
    flat: Mapping[str, np.ndarray],
    path: PathLike,
) -> None:
    """Raises NamesDiffer unless the arrays of some networks are those of their rows.

    Args:
      rows: of the networks, as `network_rows` lists them.
      flat: arrays by name, "unet/conv_in/kernel"; those of other networks may be there.
      path: where the arrays are from, for the error.
    """
    expected = {
        f"{network}/{row.ours}": row.shape
        for network, entries in rows.items()
        for row in entries
    }
    networks = tuple(f"{network}/" for network in rows)
    given = {n: x.shape for n, x in flat.items() if n.startswith(networks)}
    pairs = {n: (given.get(n), expected.get(n)) for n in sorted({*expected, *given})}
    odd = [
        f"{name}: {actual or 'missing'}, expected {shape or 'nothing'}"
        for name, (actual, shape) in pairs.items()
        if actual != shape
    ]
    odd += [
        f"{name}: {flat[name].dtype}, expected numbers of floating point"
        for name in given
        if not jnp.issubdtype(flat[name].dtype, jnp.floating)
    ]
    if odd:
        what = (
            f"the arrays in {path} must be those of the model in its {CONFIG}; take "
            f"both from the same model ({len(odd):,} arrays differ)"
        )
        raise NamesDiffer(listed(what, odd, limit=5))


def flatten(params: PyTree) -> dict[str, np.ndarray]:
    """Flattens a tree of parameters: {"unet/conv_in/kernel": array}."""
    flat: dict[str, Any] = dict(traverse_util.flatten_dict(params, sep="/"))
    return {name: np.asarray(x) for name, x in flat.items() if np.size(x)}


def _write_beside(folder, settings, files) -> None:
    write_json(folder / CONFIG, dict(settings))
    for name, data in files.items():
        write_bytes(folder / name, data)


def _files_in(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _shards(flat: Mapping[str, np.ndarray], limit: int) -> Iterator[list[str]]:
    """Yields names whose arrays have `limit` bytes at most together, or one name."""
    names, size = [], 0
    for name, array in flat.items():
        if names and size + array.nbytes > limit:
            yield names
            names, size = [], 0
        names.append(name)
        size += array.nbytes
    yield names
