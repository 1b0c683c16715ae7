# SPDX-License-Identifier: Apache-2.0
"""Knows devices and hosts: the mesh, sharding, compilation, processes."""
