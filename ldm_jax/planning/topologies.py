# SPDX-License-Identifier: Apache-2.0
"""Topologies for compiling without hardware: slices of TPUs, nodes of GPUs."""

import dataclasses
import importlib.util
import itertools
import os
import re
from typing import Any

import jax

from ldm_jax.parallel.chips import GPUS, TPUS
from ldm_jax.types import Device

# Generation of TPU -> shapes of a slice. v4 and v5p are tori of three dimensions.
GENERATIONS = {
    "v4": "2x2x1, 2x2x2, 2x2x4, 4x4x4 ... 16x16x16",
    "v5e": "1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16",
    "v5p": "2x2x1, 2x2x2, 2x2x4, 4x4x4 ... 16x16x24",
    "v6e": "1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16",
}

# So that libtpu, finding no TPU, neither asks the network for one nor refuses a second
# process; read once, when it is loaded.
_QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}


@dataclasses.dataclass(frozen=True)
class AbsentDevice:
    """A placeholder for a device: for making meshes, not for compiling.

    Attributes:
      id: its number.
      device_kind: a key of CHIPS.
      platform: "gpu" or "tpu".
      slice_index: the slice, or the node, that it is in.
      process_index: the host that it belongs to.
      coords: of a TPU: its position in the slice, from which a mesh is made.
      core_on_chip: of a TPU: its number on the chip.
    """

    id: int
    device_kind: str
    platform: str
    slice_index: int = 0
    process_index: int = 0
    coords: tuple[int, int, int] = (0, 0, 0)
    core_on_chip: int = 0


def absent_devices(name: str, slices: int = 1) -> list[AbsentDevice]:
    """Makes placeholder devices, for costs that need no compiler.

    Args:
      name: "h100:8", GPUs of a node; or of TPUs as for `describe_topology`.
      slices: how many such nodes, or slices.

    Raises:
      ValueError: the name is unknown.
    """
    kind, _, shape = name.partition(":")
    is_gpu, is_tpu = kind in GPUS, re.fullmatch(r"\d+x\d+(x\d+)?", shape)
    known = (is_gpu and shape.isdecimal() and int(shape)) or (kind in TPUS and is_tpu)
    if not known or slices < 1:
        raise ValueError(_unknown(name, slices))
    x, y, z = map(int, [*shape.split("x"), "1", "1"][:3])
    places = list(itertools.product(range(x), range(y), range(z)))
    device_kind, platform = {**GPUS, **TPUS}[kind], "gpu" if is_gpu else "tpu"
    return [
        AbsentDevice(
            i, device_kind, platform, i // len(places), coords=places[i % len(places)]
        )
        for i in range(len(places) * slices)
    ]


def describe_topology(name: str, slices: int = 1) -> list[Device]:
    """Makes devices of a TPU slice that programs can be compiled for, without a TPU.

    Args:
      name: GENERATION:SHAPE, e.g. "v5e:4x4", chips along each axis of the torus.
      slices: how many such slices, joined by the data-centre network.

    Returns:
      The devices, one per chip.

    Raises:
      ValueError: the generation or the shape is unknown, or
        libtpu, the compiler, is not installed.
    """
    if name.partition(":")[0] in GPUS:
        raise ValueError(
            f"only programs for TPUs can be compiled without the device: got {name}; "
            "add --no-compile, which prints the costs that follow from shapes alone."
        )
    match = re.fullmatch(r"(\w+):(\d+x\d+(?:x\d+)?)", name)
    if match is None or match[1] not in GENERATIONS or slices < 1:
        raise ValueError(_unknown(name, slices))
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            "compiling for a TPU needs its compiler, libtpu, which runs on any Linux "
            "machine: pip install 'ldm_jax[tpu]'."
        )
    from jax.experimental import topologies

    for variable, value in _QUIET.items():
        os.environ.setdefault(variable, value)
    # Both cores of a v4 chip are one device; the later ones have one core or do so.
    options: dict[str, Any] = {}
    if match[1] == "v4":
        options["chip_config_name"] = "megacore"
    if match[2] == "1x1":  # libtpu takes a host to have four chips
        options["chips_per_host_bounds"] = [1, 1, 1]
    if slices > 1:
        options["num_slices"] = slices
    try:
        topology = topologies.get_topology_desc(
            platform="tpu", topology_name=name, **options
        )
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"{_unknown(name, slices)} ({error})") from error
    return list(topology.devices)


def _unknown(name: str, slices: int) -> str:
    known = "; ".join(f"{n}: {shapes}" for n, shapes in GENERATIONS.items())
    return (
        "a topology is GENERATION:SHAPE and slices are 1 or more: got "
        f'"{name}" and {slices}. Known are {known}; with --no-compile also '
        f"{', '.join(GPUS)}:NUMBER of GPUs."
    )
