# SPDX-License-Identifier: Apache-2.0
"""Peak figures of accelerators: operations, memory and traffic per second.

The manufacturers' figures for dense bfloat16, which are upper limits to compare
measured times with. Source: Google Cloud's TPU pages; NVIDIA's data sheets.
"""

from typing import NamedTuple


class Chip(NamedTuple):
    """Peak figures and memory of one device.

    Attributes:
      flops: bfloat16 operations per second.
      hbm_bytes: memory that a program may use.
      hbm_rate: bytes per second between the chip and its memory.
      link_rate: bytes per second that a chip sends over all its links to its
        neighbours; None where there are none or none is published.
      clock: cycles per second of a TPU, which its maker does not publish: `flops` over
        what the matrix units do in one (128 x 128 products each; 256 x 256 on v6e).
    """

    flops: float
    hbm_bytes: float
    hbm_rate: float
    link_rate: float | None = None
    clock: float | None = None


GIB = 2**30

# `jax.Device.device_kind` -> limits. The memory of TPUs is what their compiler grants.
CHIPS = {
    "TPU v4": Chip(275e12, 30.75 * GIB, 1228e9, 300e9, 1.05e9),
    "TPU v5 lite": Chip(197e12, 15.75 * GIB, 819e9, 200e9, 1.50e9),
    "TPU v5": Chip(459e12, 95.74 * GIB, 2765e9, 600e9, 1.75e9),
    "TPU v6 lite": Chip(918e12, 31.25 * GIB, 1640e9, 448e9, 1.75e9),
    "NVIDIA A100-SXM4-80GB": Chip(312e12, 80e9, 2039e9, 300e9),
    "NVIDIA H100 80GB HBM3": Chip(989e12, 80e9, 3350e9, 450e9),
    "NVIDIA H200": Chip(989e12, 141e9, 4800e9, 450e9),
    "NVIDIA B200": Chip(2250e12, 180e9, 7700e9, 900e9),
}

# Short names of devices -> `device_kind`; those of GPUs and of TPU generations.
GPUS = {
    "a100": "NVIDIA A100-SXM4-80GB",
    "h100": "NVIDIA H100 80GB HBM3",
    "h200": "NVIDIA H200",
    "b200": "NVIDIA B200",
}
TPUS = {"v4": "TPU v4", "v5e": "TPU v5 lite", "v5p": "TPU v5", "v6e": "TPU v6 lite"}


def chip_of(device) -> Chip | None:
    """Returns the limits of a device; None where they are not known (a CPU)."""
    return CHIPS.get(device.device_kind)


def chip_by_name(name: str) -> Chip:
    """Returns the limits of a device by its short name, "h100" or "v5e".

    Raises:
      ValueError: it is unknown; lists those that are known.
    """
    kinds = {**GPUS, **TPUS}
    if name not in kinds:
        raise ValueError(f'unknown device "{name}"; one of: {", ".join(kinds)}.')
    return CHIPS[kinds[name]]
