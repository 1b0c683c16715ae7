# SPDX-License-Identifier: Apache-2.0
"""Benchmarks; each module is a command `ldm-jax bench NAME`."""
