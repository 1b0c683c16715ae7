# SPDX-License-Identifier: Apache-2.0
"""Makes the mesh of devices, and chooses how every array is split over it.

One mesh with three axes serves every run: "data" (copies of the model), "fsdp" (the
batch and the parameters are both split) and "tensor" (channels are split). An axis of
size 1 costs nothing, so a single device is the mesh (1, 1, 1).
"""

import re
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ldm_jax.types import BATCH_AXES, TENSOR_AXIS, Device, PyTree

AXES = (*BATCH_AXES, TENSOR_AXIS)

# The "tensor" axis splits what a pair of layers keeps to itself: the first layer's
# output channels, the second's input channels, so that one all-reduce follows the pair
# (Shoeybi et al. 2019, Sec. 3). Axis of a kernel, counted from its end, by path.
TENSOR_RULES = (
    (r"(^|/)(attn\w*/[qkv]|mlp/in|conv_1|res\w*/time)/kernel$", -1),
    (r"(^|/)(attn\w*/out|mlp/out|conv_2)/kernel$", -2),
)
# Arrays whose last axis is cut in halves (`models.layers.DenseHalves`): were it split,
# each half would have to be distributed again. ("tensor" does split it, and pays that.)
CUT_IN_HALVES = r"(^|/)mlp/in/(kernel|bias)$"

# Smaller arrays are not split. One of 16 devices stores 0.34 GiB of LDM-4 with 1 MiB,
# 0.26 with 0.25, and 1.03 with 4, for 6 % less traffic.
MIN_SHARD_MIB = 1.0


def make_mesh(
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
    slices: int = -1,
    devices: Sequence[Device] | None = None,
) -> Mesh:
    """Makes the (data, fsdp, tensor) mesh.

    Args:
      data, fsdp, tensor: sizes of the axes; one may be -1: all remaining devices.
      slices: groups of devices with their own fast network, over which "data" is
        split first; -1 is the number of TPU slices, or one. Devices without slices
        are divided into equal groups in their order.
      devices: the devices to use; all of the run by default.

    Raises:
      ValueError: the sizes do not multiply to the number of devices, the slices are not
        those of the devices, or they do not divide "data".
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
    groups = _slices(devices, slices)
    if sizes[0] % len(groups):
        raise ValueError(
            f'"data" alone reaches across slices: got data={sizes[0]} for '
            f"{len(groups)} slices; make it a multiple of them, and keep fsdp * tensor "
            f"within the {len(groups[0])} devices of one."
        )
    within = (sizes[0] // len(groups), *sizes[1:])
    blocks = [
        mesh_utils.create_device_mesh(within, g, allow_split_physical_axes=True)
        for g in groups
    ]
    # Auto: the compiler places what no sharding names. Explicit axes, which
    # jax.make_mesh defaults to, make flax's convolutions fail.
    axis_types = (AxisType.Auto,) * len(AXES)
    return Mesh(np.concatenate(blocks), AXES, axis_types=axis_types)


def _slices(devices: list[Device], slices: int) -> list[list[Device]]:
    """Groups devices by slice."""
    groups: dict[int, list[Device]] = {}
    for device in devices:
        # On GPUs a "slice" is a node, across which any axis may reach.
        index = getattr(device, "slice_index", 0) if device.platform == "tpu" else 0
        groups.setdefault(index, []).append(device)
    if slices == -1 or slices == len(groups):
        return [groups[index] for index in sorted(groups)]
    if len(groups) > 1 or slices < 1 or len(devices) % slices:
        raise ValueError(
            f"mesh.slices must be the number of slices there are: got {slices} for "
            f"{len(devices)} devices in {len(groups)}; -1 takes it from the devices."
        )
    size = len(devices) // slices
    return [devices[i : i + size] for i in range(0, len(devices), size)]


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that is replicated on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of [B, ...]: B is split over "data" and "fsdp"."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def path_name(path) -> str:
    """Writes a key path of a pytree as names joined by "/"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def with_shardings(
    shapes: PyTree, mesh: Mesh, min_shard_mib: float = MIN_SHARD_MIB
) -> PyTree:
    """Chooses the sharding of every array of a state.

    The rules read the end of a path, so a parameter, its average and its two moments
    in the optimizer, whose paths end alike, are split alike.

    Args:
      shapes: pytree of arrays or jax.ShapeDtypeStruct.
      mesh: from `make_mesh`.
      min_shard_mib: arrays smaller than this are replicated: gathering a small array
        costs more than storing it.

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
    """Chooses the axes of one large array: "tensor" by rule, "fsdp" on the longest.

    "fsdp" never on one that is cut in halves.
    """
    spec: list[str | None] = [None] * len(shape)
    for pattern, axis in TENSOR_RULES:
        if len(shape) > 1 and re.search(pattern, path):
            if mesh.shape["tensor"] > 1 and shape[axis] % mesh.shape["tensor"] == 0:
                spec[axis] = "tensor"
            break
    size = mesh.shape["fsdp"]
    free = [i for i, n in enumerate(shape) if spec[i] is None and n % size == 0]
    if re.search(CUT_IN_HALVES, path):
        free = [i for i in free if i != len(shape) - 1]
    if size > 1 and free:
        spec[max(free, key=lambda i: shape[i])] = "fsdp"
    return spec


def place(tree: PyTree, mesh: Mesh, min_shard_mib: float = MIN_SHARD_MIB) -> PyTree:
    """Shards arrays that every process has in full, as `with_shardings` chooses."""
    targets = with_shardings(tree, mesh, min_shard_mib)

    def put(x, target):
        if isinstance(x, jax.Array) and x.sharding == target.sharding:
            return x
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, target.sharding, lambda i: x[i])

    return jax.tree.map(put, tree, targets)


def bytes_per_device(tree: PyTree) -> int:
    """Returns the bytes on one device of arrays with shardings."""
    return sum(
        x.dtype.itemsize * int(np.prod(x.sharding.shard_shape(x.shape)))
        for x in jax.tree.leaves(tree)
    )
