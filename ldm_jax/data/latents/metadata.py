# SPDX-License-Identifier: Apache-2.0
"""Reads and checks the metadata of a set of latents, which is not trusted."""

import dataclasses
import math
import os
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from etils import epath

from ldm_jax.data.latents.statistics import LatentStats
from ldm_jax.data.transforms.pixels import MAX_SIDE
from ldm_jax.files.errors import UnreadableFile, shown
from ldm_jax.files.formats.structured import read_json

METADATA_FILE = "metadata.json"
MAX_RECORD_BYTES = 2**30
# Of statistics; a square of it is finite.
HUGE = 1e30


class Shard(NamedTuple):
    """A shard of a set.

    Attributes:
      name: of the file, in the folder of the set.
      count: records.
      num_bytes: of the file.
      sha256: of the file, in hexadecimal digits.
      first: SHA-256 of its first record; detects a shard of another set at once.
    """

    name: str
    count: int
    num_bytes: int
    sha256: str
    first: str


# dtype and shape of a field; None of a text.
Kind = tuple[np.dtype, tuple[int, ...]] | None


class LatentMetadata(NamedTuple):
    """Contents of metadata.json of a set of latents: statistics, fields and shards."""

    stats: LatentStats
    fields: dict[str, Kind]
    shards: list[Shard]


def read_latent_metadata(folder: epath.Path) -> LatentMetadata:
    """Reads and checks metadata.json of a set.

    Raises:
      UnreadableFile: damaged, of another kind of set, or values that cannot be, by
        name.
    """
    path = folder / METADATA_FILE
    content = read_json(os.fspath(path)) if path.exists() else {}
    if "stats" not in content:
        raise UnreadableFile(
            f"{folder} is a TFDS set but not one of latents: write them with ldm-jax "
            "latents, or open it as an image set."
        )
    try:
        stats = _stats(content["stats"])
        shards = [_shard(entry) for entry in _is(content["shards"], list, "shards")]
        fields = _is(content["fields"], dict, "fields").items()
        kinds = {name: _kind(name, kind) for name, kind in fields}
        _check_fit(stats, kinds, shards)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UnreadableFile(
            f"{path} does not describe a set of latents: {type(error).__name__} "
            f"{shown(str(error))}. Copy it again, or write the latents again."
        ) from error
    return LatentMetadata(stats, kinds, shards)


def _is(value: Any, kind: type, name: str) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{name} must be of type {kind.__name__}: got {shown(value)}")
    return value


def _number(value: Any, name: str, low: float = -math.inf) -> float:
    if type(value) not in (int, float) or not max(low, -HUGE) <= value <= HUGE:
        raise ValueError(f"{name} must be a finite number: got {shown(value)}")
    return value


def _count(value: Any, name: str, low: int = 1, high: int = 2**48) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} must be in {low}..{high}: got {shown(value)}")
    return value


def _stats(values: Any) -> LatentStats:
    stats = LatentStats(**_is(values, dict, "stats"))
    shape = _is(stats.latent_shape, list, "latent_shape")
    if len(shape) != 3:
        raise ValueError(f"latent_shape must be [h, w, c]: got {shown(shape)}")
    for side in (*shape, stats.f):
        _count(side, "latent_shape and f", 1, MAX_SIDE)
    _count(stats.count, "count")
    _count(stats.dropped, "dropped", 0)
    _number(stats.mean, "mean")
    _number(stats.scale_error, "scale_error", 0)
    std, scale = _number(stats.std, "std", 0), _number(stats.scale, "scale", 0)
    if not abs(std * scale - 1) < 1e-3:
        raise ValueError(f"scale must be 1 / std: got {scale} and std {std}")
    for name in ("autoencoder", "images"):
        _is(getattr(stats, name), str, name)
    _is(stats.transform, dict, "transform")
    return dataclasses.replace(
        stats, latent_shape=tuple(shape), class_names=_class_names(stats)
    )


def _class_names(stats: LatentStats) -> tuple[str, ...]:
    """Checks the classes; returns their names."""
    if stats.num_classes is not None:
        _count(stats.num_classes, "num_classes")
    names = _is(stats.class_names, list, "class_names") if stats.class_names else []
    for name in names:
        _is(name, str, "a class name")
    if names and len(names) != stats.num_classes:
        raise ValueError(
            f"class_names must name every class: got {len(names)} names for "
            f"{stats.num_classes} classes"
        )
    return tuple(names)


def _shard(entry: Any) -> Shard:
    shard = Shard(*_is(entry, list, "a shard"))
    _is(shard.name, str, "the name of a shard")
    if shard.name != os.path.basename(shard.name) or shard.name.startswith("."):
        raise ValueError(f"a shard is a file of the folder: got {shown(shard.name)}")
    _count(shard.count, f"records of {shard.name}", 0)
    _count(shard.num_bytes, f"bytes of {shard.name}", 0)
    _is(shard.sha256, str, "sha256")
    _is(shard.first, str, "first")
    return shard


def _kind(name: str, kind: Any) -> Kind:
    if not isinstance(kind, list) or not kind or not isinstance(kind[0], str):
        raise ValueError(f"the field {name} must be [dtype, shape]: got {shown(kind)}")
    if kind[0] == "str":
        return None
    dtype, shape = jnp.dtype(kind[0]), tuple(_is(kind[1], list, "a shape"))
    for side in shape:
        _count(side, f"the shape of {name}", 0, MAX_SIDE)
    is_number = dtype.kind in "biuf" or dtype == jnp.bfloat16
    if not is_number or dtype.itemsize * math.prod(shape) > MAX_RECORD_BYTES:
        raise ValueError(f"the field {name} is {shown(kind)}")
    return dtype, shape


def _check_fit(stats: LatentStats, fields: dict[str, Kind], shards: list[Shard]):
    """Raises ValueError where statistics, fields and shards contradict each other."""
    total = sum(shard.count for shard in shards)
    if total != stats.count:
        raise ValueError(
            f"count must be that of the shards, {total}: got {stats.count}"
        )
    h, w, c = stats.latent_shape
    moments = fields["moments"]
    if moments is None or moments[1] not in ((h, w, c), (h, w, 2 * c)):
        raise ValueError(
            f"moments must fit latent_shape {(h, w, c)}: got {shown(moments)}"
        )
