# SPDX-License-Identifier: Apache-2.0
"""Measures how much memory the devices of this process have left."""

import os

import jax


def free_bytes() -> int | None:
    """Returns the bytes that each device of this process has left.

    The devices of a CPU share the memory of the host.

    Returns:
      The least of all devices; None where the platform does not say it.
    """
    devices = jax.local_devices()
    if devices[0].platform == "cpu":
        return _host_bytes(len(devices))
    stats = [device.memory_stats() or {} for device in devices]
    if not all({"bytes_limit", "bytes_in_use"} <= set(each) for each in stats):
        return None
    return min(each["bytes_limit"] - each["bytes_in_use"] for each in stats)


def _host_bytes(shares: int) -> int | None:
    """Returns the share of a device in the free memory of the host."""
    try:
        pages, size = os.sysconf("SC_AVPHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # macOS has no such figure
        return None
    return pages * size // shares
