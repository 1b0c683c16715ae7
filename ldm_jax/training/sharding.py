# SPDX-License-Identifier: Apache-2.0
"""The mesh, and which parameter lies where on it.

One mesh with three axes serves every run: "data" (copies of the model), "fsdp" (the
batch and the parameters are both split) and "tensor" (channels are split). An axis of
size 1 costs nothing, so a single device is the mesh (1, 1, 1).
"""

import re
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ldm_jax.types import PyTree

AXES = ("data", "fsdp", "tensor")

# The "tensor" axis splits what a pair of layers keeps to itself: the first layer's
# output channels, the second's input channels, so that one all-reduce follows the pair
# (Shoeybi et al. 2019, Sec. 3). Axis of a kernel, counted from its end, by path.
TENSOR_RULES = (
    (r"(^|/)(attn\w*/[qkv]|mlp/in|conv_1|res\w*/time)/kernel$", -1),
    (r"(^|/)(attn\w*/out|mlp/out|conv_2)/kernel$", -2),
)


def make_mesh(
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """Makes the (data, fsdp, tensor) mesh.

    Args:
      data, fsdp, tensor: sizes of the axes; one of them may be -1, for what is left.
      devices: the devices to use; all of the run by default.

    Raises:
      ValueError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = [data, fsdp, tensor]
    fixed = int(np.prod([size for size in sizes if size != -1]))
    if sizes.count(-1) == 1 and fixed > 0 and len(devices) % fixed == 0:
        sizes[sizes.index(-1)] = len(devices) // fixed
    if min(sizes) < 1 or int(np.prod(sizes)) != len(devices):
        raise ValueError(
            f"the mesh (data, fsdp, tensor) must hold all {len(devices)} devices: got "
            f"({data}, {fsdp}, {tensor}); at most one axis may be -1, the rest must "
            "divide the number of devices."
        )
    # Auto: the compiler places what no sharding names. jax.make_mesh defaults to
    # Explicit axes, under which flax's convolutions fail.
    axis_types = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh(tuple(sizes), AXES, axis_types, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of [B, ...]: B is split over "data" and "fsdp"."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def path_name(path) -> str:
    """Writes a key path of a pytree as names joined by "/"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def with_shardings(shapes: PyTree, mesh: Mesh, min_shard_mib: float = 4.0) -> PyTree:
    """Gives every array of a state its place on the mesh.

    The rules read the end of a path, so a parameter, its average and its two moments
    in the optimizer, which all end alike, lie alike.

    Args:
      shapes: pytree of arrays or jax.ShapeDtypeStruct.
      mesh: from `make_mesh`.
      min_shard_mib: arrays smaller than this stay whole on every device: gathering a
        small array costs more than holding it.

    Returns:
      The same tree of jax.ShapeDtypeStruct with shardings.
    """

    def place(path, x):
        mib = x.size * x.dtype.itemsize / 2**20
        small = x.ndim == 0 or mib < min_shard_mib
        spec = () if small else _spec(path_name(path), x.shape, mesh)
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(place, shapes)


def _spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> list[str | None]:
    """Chooses the axes of one large array: "tensor" by rule, "fsdp" on the longest."""
    spec: list[str | None] = [None] * len(shape)
    for pattern, axis in TENSOR_RULES:
        if len(shape) > 1 and re.search(pattern, path):
            if mesh.shape["tensor"] > 1 and shape[axis] % mesh.shape["tensor"] == 0:
                spec[axis] = "tensor"
            break
    size = mesh.shape["fsdp"]
    free = [i for i, n in enumerate(shape) if spec[i] is None and n % size == 0]
    if size > 1 and free:
        spec[max(free, key=lambda i: shape[i])] = "fsdp"
    return spec


def place(tree: PyTree, mesh: Mesh, min_shard_mib: float = 4.0) -> PyTree:
    """Puts arrays that every process holds whole where `with_shardings` wants them."""
    wanted = with_shardings(tree, mesh, min_shard_mib)

    def put(x, want):
        if isinstance(x, jax.Array) and x.sharding == want.sharding:
            return x
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, want.sharding, lambda i: x[i])

    return jax.tree.map(put, tree, wanted)
