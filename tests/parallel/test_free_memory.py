# SPDX-License-Identifier: Apache-2.0
"""The free memory of devices: of the host, or what their allocator says."""

import os

import jax
import pytest

from ldm_jax.parallel.free_memory import free_bytes


class Device:
    platform = "gpu"

    def __init__(self, **stats):
        self._stats = stats

    def memory_stats(self):
        return self._stats or None


@pytest.mark.skipif(
    "SC_AVPHYS_PAGES" not in os.sysconf_names, reason="the system does not report it"
)
def test_the_devices_of_a_cpu_share_the_memory_of_the_host():
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = free_bytes()
    assert free is not None and 0 < free * jax.local_device_count() <= whole


def test_the_fullest_device_counts(monkeypatch):
    devices = [
        Device(bytes_limit=100, bytes_in_use=30),
        Device(bytes_limit=100, bytes_in_use=60),
    ]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    assert free_bytes() == 40


def test_a_device_that_does_not_say_it_gives_none(monkeypatch):
    devices = [Device(bytes_limit=100, bytes_in_use=30), Device()]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    assert free_bytes() is None
