# SPDX-License-Identifier: Apache-2.0
"""Devices and hosts: the mesh, sharding, compilation, processes."""
