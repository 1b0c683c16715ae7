# SPDX-License-Identifier: Apache-2.0
"""Moves arrays between the devices' memory and that of their hosts."""

import jax

from ldm_jax.types import PyTree

HOST, DEVICE = "pinned_host", "device"
# The same two, for `jax.device_put` inside a compiled function.
HOST_SPACE, DEVICE_SPACE = jax.memory.Space.Host, jax.memory.Space.Device


def on_host(tree: PyTree) -> PyTree:
    """Moves arrays (or shapes) that devices hold to the memory of their hosts."""
    return jax.tree.map(lambda x: _move(x, HOST), tree)


def on_device(tree: PyTree) -> PyTree:
    """Moves arrays that `on_host` moved back to the devices; leaves others alone."""

    def back(x):
        sharding = getattr(x, "sharding", None)
        is_away = sharding is not None and sharding.memory_kind == HOST
        return _move(x, DEVICE) if is_away else x

    return jax.tree.map(back, tree)


def _move(x, kind: str):
    sharding = x.sharding.with_memory_kind(kind)
    if isinstance(x, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    return jax.device_put(x, sharding)
